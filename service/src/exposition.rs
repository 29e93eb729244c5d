//! Reads a Prometheus text page (format 0.0.4) as strictly as Prometheus does: what tests and tools check `/metrics` with.

use std::collections::{BTreeMap, HashSet};

/// Value of every series by its id as printed (`name{label="value"}`).
pub type Page = BTreeMap<String, f64>;

/// Reads a page.
///
/// # Errors
/// The first line that breaks the format, and why: HELP or TYPE twice, a sample outside its family, a series twice, a broken
/// label, a value that is no number, a histogram whose buckets shrink or do not add up.
pub fn parse(page: &str) -> Result<Page, String> {
    let mut reader = Reader::default();
    if !page.is_empty() && !page.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    for line in page.lines() {
        reader.line(line).map_err(|why| format!("{why}: {line}"))?;
    }
    check_histograms(&reader)?;
    Ok(reader.series)
}

/// What `expected` names and `page` does not have. `expected` is a list of `# TYPE` lines and of series without their
/// values: names that people's dashboards and alerts rely on. What the page has beyond it is of no interest.
pub fn missing<'e>(page: &str, expected: &'e str) -> Vec<&'e str> {
    let on_page: HashSet<&str> = page
        .lines()
        .filter_map(|line| if line.starts_with('#') { Some(line) } else { series(line) })
        .collect();
    expected.lines().filter(|line| !line.is_empty() && !on_page.contains(line)).collect()
}

/// The id of a sample.
fn series(line: &str) -> Option<&str> {
    line.rsplit_once(' ').map(|(id, _)| id)
}

#[derive(Default)]
struct Reader {
    helps: HashSet<String>,
    types: BTreeMap<String, String>,
    /// Family whose samples may follow.
    current: String,
    series: Page,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().unwrap_or_default();
            return if self.helps.insert(name.to_owned()) { Ok(()) } else { Err("HELP twice") };
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return Err("unknown type");
            }
            name.clone_into(&mut self.current);
            let first = self.types.insert(name.to_owned(), kind.to_owned()).is_none();
            return if first { Ok(()) } else { Err("TYPE twice") };
        }
        if line.starts_with('#') || line.is_empty() {
            return Ok(());
        }
        self.sample(line)
    }

    fn sample(&mut self, line: &str) -> Result<(), &'static str> {
        let (id, value) = line.rsplit_once(' ').ok_or("no value")?;
        let name = id.split('{').next().unwrap_or_default();
        if !is_name(name, true) {
            return Err("not a metric name");
        }
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = part.filter(|base| self.types.get(*base).is_some_and(|kind| kind == "histogram"));
        if family.unwrap_or(name) != self.current {
            return Err("sample outside its family");
        }
        if let Some(labels) = id.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let inner =
                labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or("broken braces")?;
            check_labels(inner)?;
        }
        let value = match value {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            value => value.parse().map_err(|_| "value is no number")?,
        };
        if self.series.insert(id.to_owned(), value).is_some() {
            return Err("series twice");
        }
        Ok(())
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let first =
        name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':'));
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
}

/// `name="value"` pairs, each value closed by the first quote that is not escaped.
fn check_labels(mut rest: &str) -> Result<(), &'static str> {
    let mut seen = HashSet::new();
    while !rest.is_empty() {
        let (name, tail) = rest.split_once("=\"").ok_or("broken label")?;
        if !is_name(name, false) || !seen.insert(name) {
            return Err("broken or repeated label name");
        }
        let mut escaped = false;
        let mut valid = true;
        let end = tail.find(|c| {
            valid &= !escaped || matches!(c, '\\' | '"' | 'n');
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let after = end.and_then(|end| tail.get(end + 1..)).ok_or("label value without end")?;
        if !valid {
            return Err("unknown escape in a label value");
        }
        rest = match after.strip_prefix(',') {
            Some(next) => next,
            None if after.is_empty() => after,
            None => return Err("labels without a comma between"),
        };
    }
    Ok(())
}

/// Buckets of one series must not shrink, and the last must equal its count.
fn check_histograms(reader: &Reader) -> Result<(), String> {
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (id, count) in &reader.series {
        let Some((name, labels)) = id.split_once("_bucket{") else { continue };
        let Some((others, le)) = labels.trim_end_matches('}').rsplit_once("le=\"") else { continue };
        let others = others.trim_end_matches(',');
        let braces = if others.is_empty() { String::new() } else { format!("{{{others}}}") };
        let le = le.trim_end_matches('"');
        let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| format!("le={le}"))? };
        buckets.entry(format!("{name}_count{braces}")).or_default().push((bound, *count));
    }
    for (total, mut bounds) in buckets {
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let grows = bounds.is_sorted_by(|a, b| a.1 <= b.1);
        let last = bounds.last().map(|(bound, count)| (*bound, *count));
        if !grows || last != reader.series.get(&total).map(|count| (f64::INFINITY, *count)) {
            return Err(format!("buckets of {total} do not add up"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{missing, parse};

    #[test]
    fn a_name_that_vanished_is_found() {
        let page = "# HELP a x\n# TYPE a counter\na{l=\"x y\"} 1\n";
        assert!(missing(page, "# TYPE a counter\na{l=\"x y\"}\n").is_empty());
        assert_eq!(missing(page, "# TYPE a gauge\na\n"), ["# TYPE a gauge", "a"]);
    }

    #[test]
    fn a_valid_page_is_read_and_each_fault_is_found() {
        let head = "# HELP a x\n# TYPE a counter\n";
        assert_eq!(parse(&format!("{head}a{{l=\"x\\\"y\"}} 3\n")).unwrap()["a{l=\"x\\\"y\"}"], 3.0);
        for broken in [
            "a 1",
            "a 1\n",
            "# TYPE a counter\n# TYPE a counter\n",
            "# TYPE a thing\n",
            "# HELP a x\n# HELP a x\n",
            "# TYPE a counter\nb 1\n",
            "# TYPE a counter\na 1\na 1\n",
            "# TYPE a counter\na x\n",
            "# TYPE a counter\na{l=\"x} 1\n",
            "# TYPE a counter\na{l=\"\\x\"} 1\n",
            "# TYPE a counter\na{l=\"x\",l=\"y\"} 1\n",
            "# TYPE a counter\na{l=\"x\"m=\"y\"} 1\n",
            "# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
            "# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
        ] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }
}
