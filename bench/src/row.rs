//! A line of the table: a figure, its bar, and whether it is met.

use serde_json::{Value, json};

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    /// At least this.
    Least(f64),
    /// At most this.
    Most(f64),
}

impl Bar {
    fn holds(self, value: f64) -> bool {
        match self {
            Bar::Least(bar) => value >= bar,
            Bar::Most(bar) => value <= bar,
        }
    }

    fn text(self) -> String {
        match self {
            Bar::Least(bar) => format!(">= {}", short(bar)),
            Bar::Most(bar) => format!("<= {}", short(bar)),
        }
    }
}

/// See the module text.
#[derive(Clone, Debug)]
pub struct Row {
    name: &'static str,
    /// `None`: could not be measured here; the note says why.
    value: Option<f64>,
    unit: &'static str,
    bar: Bar,
    /// A second condition on the same measurement, as the note tells it.
    also: bool,
    note: String,
}

impl Row {
    /// A figure and its bar.
    pub fn new(name: &'static str, value: f64, unit: &'static str, bar: Bar, note: impl Into<String>) -> Row {
        Row { name, value: value.is_finite().then_some(value), unit, bar, also: true, note: note.into() }
    }

    /// The bar is met only where `also` holds too.
    pub fn and(self, also: bool) -> Row {
        Row { also, ..self }
    }

    /// Appends to the note.
    pub fn remark(&mut self, remark: &str) {
        self.note.push_str(remark);
    }

    /// Whether the bar is met; an unmeasured row meets nothing.
    pub fn met(&self) -> bool {
        self.also && self.value.is_some_and(|value| self.bar.holds(value))
    }

    /// As one object of the JSON report.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name, "value": self.value, "unit": self.unit, "bar": self.bar.text(), "met": self.met(),
            "note": self.note,
        })
    }

    /// As a line for people.
    pub fn line(&self) -> String {
        let value = self.value.map_or_else(|| "-".to_owned(), short);
        let met = if self.met() { "met" } else { "NOT MET" };
        format!("{:24} {value:>10} {:7} {:>10}  {met:8} {}", self.name, self.unit, self.bar.text(), self.note)
    }
}

/// Head of the table.
pub fn heading() -> String {
    format!("{:24} {:>10} {:7} {:>10}  {:8} how", "row", "value", "unit", "bar", "")
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The middle of some figures; NaN where there are none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lower quartile, middle and upper quartile of some figures; NaN where there are none.
pub fn quartiles(figures: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    // Between two figures, evenly.
    [1, 2, 3].map(|quarters| {
        let (at, rest) = (quarters * last / 4, (quarters * last % 4) as f64 / 4.0);
        let (below, above) = (figures.get(at), figures.get((at + 1).min(last)));
        below.zip(above).map_or(f64::NAN, |(below, above)| below + (above - below) * rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_met_only_where_bar_and_condition_hold() {
        let row = Row::new("x", 0.7, "x", Bar::Least(0.65), "");
        assert!(row.met() && !row.clone().and(false).met());
        assert!(!Row::new("x", f64::NAN, "x", Bar::Most(1.0), "").met());
    }

    #[test]
    fn quartiles_lie_between_figures_where_they_must() {
        assert_eq!(quartiles([5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
        assert_eq!(quartiles([1.0, 2.0]), [1.25, 1.5, 1.75]);
        assert!(quartiles([]).iter().all(|quartile| quartile.is_nan()));
    }

    #[test]
    fn the_median_of_five_is_the_third() {
        assert_eq!(median([5.0, 1.0, 4.0, 2.0, 3.0]).to_bits(), 3.0_f64.to_bits());
    }
}
