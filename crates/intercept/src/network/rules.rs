//! The routing rules of the host: ours, and those of others that have to do with them.

use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::netlink;
use super::tables::table;
use crate::class::{ClassId, MARK_MASK};

/// Where our rules stand as long as nobody else's come first: behind `local` (at 0; Cilium puts it at
/// 100), before what VPNs and container engines add.
///
/// They cannot stand so that nobody ever comes first. A rule that is added without a preference, as
/// wg-quick does, gets the one just below the second rule of the list, which is ours. Nor may they
/// stand beside `local` at 0: the automatic preference would be 0 then for each, and wg-quick's two
/// rules would come in the wrong order. So ours make way: whenever a rule that could take our flows
/// stands before them they are put before it, and go back when it is gone.
const PREFERENCE: u32 = 105;
/// They are put no lower, so that rules of others that come without a preference find room.
const FLOOR: u32 = 8;
const LOCAL_TABLE: u32 = 255;

/// Something in the host's rules that stands in the way of capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Somebody else's rule is asked before ours and takes the flows of apps; they are refused.
    ComesFirst {
        /// The rule, as `ip rule` shows it.
        rule: String,
        /// Its address family.
        ipv6: bool,
    },
    /// Somebody else marks packets with the mark of a class of ours: these come to us.
    SharesMark {
        /// The rule, as `ip rule` shows it.
        rule: String,
        /// Its address family.
        ipv6: bool,
    },
}

/// One rule, as far as it matters here.
pub(super) struct Seen {
    pub(super) message: RuleMessage,
    pub(super) is_ours: bool,
    pub(super) preference: u32,
    pub(super) table: u32,
    mark: u32,
    mask: u32,
    input: Option<String>,
}

impl Seen {
    pub(super) fn of(message: RuleMessage) -> Self {
        let mut seen = Self {
            is_ours: false,
            preference: 0,
            table: message.header.table.into(),
            mark: 0,
            mask: 0,
            input: None,
            message,
        };
        for attribute in &seen.message.attributes {
            match attribute {
                RuleAttribute::Protocol(protocol) => seen.is_ours = *protocol == netlink::PROTOCOL,
                RuleAttribute::Priority(preference) => seen.preference = *preference,
                RuleAttribute::Table(table) => seen.table = *table,
                RuleAttribute::FwMark(mark) => seen.mark = *mark,
                RuleAttribute::FwMask(mask) => seen.mask = *mask,
                RuleAttribute::Iifname(device) => seen.input = Some(device.clone()),
                _ => {}
            }
        }
        seen
    }

    pub(super) fn is_marked(&self) -> bool {
        self.mask != 0
    }

    /// Whether it is the rule that sends this class to its table, wherever it stands.
    pub(super) fn is_of(&self, class: ClassId) -> bool {
        self.is_ours
            && self.table == table(class)
            && (self.mark, self.mask) == (class.mark(), MARK_MASK)
    }

    /// Whether it is somebody else's and may take what carries a mark of ours alone.
    fn may_take_ours(&self) -> bool {
        let elsewhere = self.input.as_deref().is_some_and(|device| device != "lo");
        if self.is_ours || self.table == LOCAL_TABLE || elsewhere {
            return false;
        }
        // Our marks have no bits outside our mask.
        let misses = self.mark & self.mask & !MARK_MASK != 0;
        !misses || self.message.header.flags.contains(RuleFlags::Invert)
    }

    /// Whether it is about packets of others that carry the mark of this class.
    fn shares_mark(&self, class: ClassId) -> bool {
        !self.is_ours && self.mask != 0 && self.mark & MARK_MASK == class.mark()
    }

    fn text(&self) -> String {
        let mut text = format!("{}:", self.preference);
        if self.message.header.flags.contains(RuleFlags::Invert) {
            text.push_str(" not");
        }
        text.push_str(" from all");
        for attribute in &self.message.attributes {
            match attribute {
                RuleAttribute::Source(source) => text += &format!(" from {source}"),
                RuleAttribute::Destination(target) => text += &format!(" to {target}"),
                _ => {}
            }
        }
        if self.mask != 0 {
            text += &format!(" fwmark {:#x}/{:#x}", self.mark, self.mask);
        }
        if self.message.header.action == RuleAction::ToTable {
            text += &format!(" lookup {}", self.table);
        }
        text
    }
}

/// Where our rules have to stand among these: the lower of two preferences that follow each other.
pub(super) fn place(rules: &[Seen]) -> u32 {
    let local = rules.iter().filter(|rule| rule.table == LOCAL_TABLE);
    let local = local.map(|rule| rule.preference).min().unwrap_or(0);
    let floor = FLOOR.max(local + 1).min(PREFERENCE);
    let first = rules.iter().filter(|rule| rule.may_take_ours());
    match first.map(|rule| rule.preference).min() {
        Some(first) => first.saturating_sub(2).clamp(floor, PREFERENCE),
        None => PREFERENCE,
    }
}

/// Whether a rule of somebody else's takes flows before ours at `place` do.
pub(super) fn is_overtaken(rules: &[Seen], place: u32) -> bool {
    let mut foreign = rules.iter().filter(|rule| rule.may_take_ours());
    foreign.any(|rule| rule.preference <= place + 1)
}

/// What of these stands in the way of ours at `place`.
pub(super) fn conflicts(
    rules: &[Seen],
    ipv6: bool,
    place: u32,
    classes: &[ClassId],
) -> Vec<Conflict> {
    let mut found = Vec::new();
    for rule in rules {
        if rule.may_take_ours() && rule.preference <= place + 1 {
            let rule = rule.text();
            found.push(Conflict::ComesFirst { rule, ipv6 });
        } else if classes.iter().any(|class| rule.shares_mark(*class)) {
            let rule = rule.text();
            found.push(Conflict::SharesMark { rule, ipv6 });
        }
    }
    found
}
