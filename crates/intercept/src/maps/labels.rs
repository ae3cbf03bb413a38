//! Labels as the kernel programs have them.

use std::collections::BTreeMap;

use super::plain::{bytes, value};
use crate::class::ClassId;
use crate::label::{Label, Labelled};
use crate::programs::skeleton::types;

/// A line of what the iterator `list_labelled` writes; `struct row` of the kernel programs.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Row {
    label: types::label,
    process: u32,
    uid: u32,
}

/// A label as one word, as the kernel programs compare it.
pub(crate) fn to_word(label: types::label) -> u64 {
    value(bytes(&label)).expect("a label has eight octets")
}

pub(crate) fn from_word(word: u64) -> types::label {
    value(bytes(&word)).expect("a label has eight octets")
}

/// What a label says; none where it says unmanaged.
pub(crate) fn read_label(label: types::label) -> Option<Label> {
    Some(match ClassId::of(label.class)? {
        ClassId::UNDECIDED => Label::Undecided {
            exec: label.exec,
            from: ClassId::of(label.from),
        },
        class => Label::Class(class),
    })
}

/// The rows that `list_labelled` wrote, one for each process.
pub(crate) fn read_rows(mut rows: &[u8]) -> Vec<Labelled> {
    let mut found = BTreeMap::new();
    while let Some(row) = value::<Row>(rows) {
        rows = &rows[size_of::<Row>()..];
        if let Some(label) = read_label(row.label) {
            let labelled = Labelled {
                pid: row.process,
                uid: row.uid,
                label,
                exec: row.label.exec,
                raw: to_word(row.label),
            };
            found.insert(row.process, labelled);
        }
    }
    found.into_values().collect()
}
