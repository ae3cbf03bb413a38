//! The targets that classes reach directly.

use libbpf_rs::MapCore;
use offramp_rules::Prefix;

use super::keys::{from_words, prefix};
use super::{MapError, Maps, bytes, delete, get, put, value};
use crate::class::ClassId;
use crate::programs::skeleton::types;

/// Why a target is reached directly; `enum approval_state` of the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// For as long as a rule says so.
    ByRule = 0,
    /// A name that is excluded stands for it.
    ByName = 1,
    /// Not reached, until it is known whether a socket uses it.
    Shut = 2,
}

impl Maps {
    /// Writes that the target is reached directly, and not used yet.
    pub(crate) fn approve(
        &self,
        class: ClassId,
        target: Prefix,
        state: Approval,
    ) -> Result<(), MapError> {
        let entry = types::approval {
            state: state as u32,
            used: 0,
        };
        put(
            &self.approved,
            "approved",
            &prefix(class, target),
            bytes(&entry),
        )
    }

    pub(crate) fn disapprove(&self, class: ClassId, target: Prefix) -> Result<(), MapError> {
        delete(&self.approved, "approved", &prefix(class, target))
    }

    /// When the target was used last, in units of 2^30 ns of CLOCK_MONOTONIC; none: never since it was
    /// written.
    pub(crate) fn last_use(&self, class: ClassId, target: Prefix) -> Result<Option<u32>, MapError> {
        let entry: Option<types::approval> =
            get(&self.approved, "approved", &prefix(class, target))?;
        Ok(entry.map(|entry| entry.used).filter(|used| *used != 0))
    }

    /// Every target of `class`, what earlier runs left included.
    pub(crate) fn approved(&self, class: ClassId) -> Vec<Prefix> {
        let all = self.approved.keys().filter_map(|key| target(&key));
        let of_class = all.filter(|(of, _)| *of == class);
        of_class.map(|(_, target)| target).collect()
    }

    /// The targets of all classes that are no rule's.
    pub(crate) fn approved_by_name(&self) -> Vec<(ClassId, Prefix)> {
        let is_by_name = |key: &types::prefix| {
            let entry = get::<_, types::approval>(&self.approved, "approved", key);
            let state = entry.ok().flatten().map(|entry| entry.state);
            state.is_some_and(|state| state != Approval::ByRule as u32)
        };
        let keys = self.approved.keys();
        keys.filter(|key| value(key).is_some_and(|key| is_by_name(&key)))
            .filter_map(|key| target(&key))
            .collect()
    }
}

fn target(key: &[u8]) -> Option<(ClassId, Prefix)> {
    let key: types::prefix = value(key)?;
    let of = u32::from_be(key.class);
    let class = ClassId::of(u16::try_from(of >> 1).ok()?)?;
    let address = from_words(key.address);
    let length = u8::try_from(key.length - 32).ok()?;
    let target = match address.to_ipv4_mapped() {
        Some(v4) if of & 1 == 0 => Prefix::containing(v4.into(), length - 96),
        _ => Prefix::containing(address.into(), length),
    };
    Some((class, target.ok()?))
}
