//! Labels: given, asked for, changed, and what hangs on them.

use std::os::fd::BorrowedFd;

use super::{Capture, StartError};
use crate::class::ClassId;
use crate::label::{Exec, Interest, Label, Labelled, Swept};
use crate::maps::{MapError, from_word, read_label, read_rows};
use crate::programs::{self, skeleton::types};
use crate::requirements::cgroup_root;

impl Capture {
    /// Labels a process of one thread: from here on it and all that it starts are managed.
    pub fn label(&self, process: BorrowedFd<'_>, class: ClassId) -> Result<(), MapError> {
        let label = types::label {
            class: class.number(),
            ..types::label::default()
        };
        self.maps.set_label(process, label)
    }

    /// The label of a process.
    pub fn label_of(&self, process: BorrowedFd<'_>) -> Result<Option<Label>, MapError> {
        Ok(self.maps.label(process)?.and_then(read_label))
    }

    /// The processes that carry a label, those whose flows are not captured among them.
    pub fn labelled(&self) -> Result<Vec<Labelled>, StartError> {
        Ok(read_rows(&programs::iterate(&self.pins, "list_labelled")?))
    }

    /// Says which execs are asked about from here on. Verdicts of before are forgotten.
    pub fn set_interest(&self, interest: &Interest) -> Result<(), MapError> {
        // Without the hierarchy the programs could not have been attached.
        let root = cgroup_root().unwrap_or_default();
        self.asking.set(interest, &root)
    }

    /// Answers for an exec; none: the program is unmanaged. With `cache` later execs of the same
    /// kind are not asked about: of the same executable by the same path, started by the same class
    /// (and user, and cgroup, where the interest has those). Not for scripts: theirs is the
    /// interpreter.
    pub fn settle(&self, exec: &Exec, class: Option<ClassId>, cache: bool) {
        self.settle_number(exec.number, class);
        if !cache || exec.before.is_some() {
            return;
        }
        let instance = class.map_or(Ok(0), |class| self.maps.instance(class));
        let remembered = instance.and_then(|instance| self.asking.remember(exec, class, instance));
        if let Err(error) = remembered {
            tracing::debug!(exec = exec.number, error = %error, "verdict not remembered");
        }
    }

    /// Answers for the exec of this number.
    pub fn settle_number(&self, exec: u32, class: Option<ClassId>) {
        // What cannot be told stays undecided: its flows go on asking.
        if let Err(error) = self.maps.settle(exec, class) {
            tracing::warn!(exec, error = %error, "verdict not told");
            return;
        }
        // Last: one that is killed in between leaves a question that has been answered.
        self.close_question(exec);
    }

    /// What was asked about an exec, for as long as no answer was given.
    pub fn question(&self, exec: u32) -> Option<Exec> {
        self.asking.question(exec)
    }

    /// The execs that wait for an answer, those that an earlier run was asked about among them, each
    /// with who asks; see [`crate::Event::Exec`].
    pub fn open_questions(&self) -> Vec<(u32, u32)> {
        self.asking.questions()
    }

    /// Closes a question that has no answer: the program stays undecided.
    pub fn close_question(&self, exec: u32) {
        if let Err(error) = self.asking.close(exec) {
            tracing::debug!(exec, error = %error, "question not closed");
        }
    }

    /// What was answered for an exec: a class, or that it is unmanaged. Answers of long ago are
    /// forgotten.
    pub fn answer(&self, exec: u32) -> Option<Option<ClassId>> {
        self.maps.settled(exec)
    }

    /// Gives running processes, each with the raw label that it is expected to have (0: none), a
    /// class, or none. One whose label is another by now is left alone. Returns how many have what
    /// was asked for. What they start meanwhile may carry the label of before: look again.
    pub fn relabel(&self, changes: &[(u32, u64, Option<ClassId>)]) -> Result<usize, StartError> {
        let changes: Vec<_> = changes
            .iter()
            .map(|(pid, expected, class)| {
                let label = types::label {
                    class: class.map_or(0, ClassId::number),
                    from: 0,
                    exec: from_word(*expected).exec,
                };
                (*pid, *expected, label)
            })
            .collect();
        self.sweeper.relabel(&changes)
    }

    /// Brings the open sockets of all processes in this network namespace under what these carry:
    /// direct flows of captured processes end (the program sees ECONNABORTED) where the class does
    /// not let them be direct. Sockets that no captured process has open are given back where their
    /// class ends, or where they are of a process that is captured no more.
    pub fn sweep(&self) -> Result<Swept, StartError> {
        self.sweeper.sweep()
    }
}
