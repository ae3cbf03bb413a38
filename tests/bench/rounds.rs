//! What several rounds have shown.

use serde_json::{Value, json};

/// One figure of each round.
#[derive(Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn add(&mut self, figure: f64) {
        self.0.push(figure);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Least, median and most.
    pub(crate) fn line(&self) -> String {
        let sorted = self.sorted();
        let [least, most] = [sorted.first(), sorted.last()].map(|f| f.copied().unwrap_or(f64::NAN));
        format!("{least:>10.1} {:>10.1} {most:>10.1}", self.median())
    }

    pub(crate) fn json(&self) -> Value {
        let sorted = self.sorted();
        json!({ "min": sorted.first(), "median": self.median(), "max": sorted.last() })
    }
}
