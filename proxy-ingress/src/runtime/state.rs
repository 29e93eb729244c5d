//! Counters of `standard` flows over an orderly stop: saved at the end, taken (and removed) at the next start, so that a
//! crash in between never resumes an old file.
//!
//! Text, one flow a line: key and last number in hexadecimal; the last line says how many there are, so that a torn file
//! is refused as a whole.

use anyhow::{Context, bail};
use frame::{HashKey, SeqNum};
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

const NAME: &str = "proxy-flows";
const HEAD: &str = "oncecast proxy flows 1";

/// The file in `--state-dir`, if one was given.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: Option<PathBuf>,
}

impl StateFile {
    /// The file in `directory`.
    pub fn new(directory: Option<PathBuf>) -> StateFile {
        StateFile { path: directory.map(|directory| directory.join(NAME)) }
    }

    /// Reads and removes the file; nothing where there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or is not one of ours, or is torn.
    pub fn take(&self) -> anyhow::Result<Vec<(HashKey, SeqNum)>> {
        let Some(path) = &self.path else { return Ok(Vec::new()) };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.with_context(|| format!("reading {} (--state-dir)", path.display()))?,
        };
        let flows = parse(&text).with_context(|| format!("{} (--state-dir)", path.display()))?;
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        Ok(flows)
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn save(&self, flows: &[(HashKey, SeqNum)]) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = format!("{HEAD}\n");
        for (key, last) in flows {
            writeln!(text, "{:016x} {:016x}", key.0, last.0)?;
        }
        writeln!(text, "end {}", flows.len())?;
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new).with_context(|| format!("creating {}", new.display()))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).context("writing flow counters")?;
        fs::rename(&new, path).with_context(|| format!("renaming to {}", path.display()))
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<(HashKey, SeqNum)>> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        bail!("not a file of flow counters; move it away to start every flow at 1");
    }
    let mut flows = Vec::new();
    for line in lines {
        let (key, last) = line.split_once(' ').context("a line without two columns")?;
        if key == "end" {
            if last.parse() == Ok(flows.len()) {
                return Ok(flows);
            }
            break;
        }
        let number = |text| u64::from_str_radix(text, 16).context("a number that is not hexadecimal");
        flows.push((HashKey(number(key)?), SeqNum(number(last)?)));
    }
    bail!("torn: the last line is missing; move it away to start every flow at 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_back_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::new(Some(directory.path().to_owned()));
        let flows = vec![(HashKey(7), SeqNum(41)), (HashKey(u64::MAX), SeqNum(1))];
        file.save(&flows).unwrap();
        assert_eq!(file.take().unwrap(), flows);
        assert_eq!(file.take().unwrap(), []);
    }

    #[test]
    fn a_torn_or_foreign_file_is_refused() {
        assert!(parse("oncecast proxy flows 1\n0000000000000007 0000000000000029\n").is_err());
        assert!(parse("oncecast proxy flows 1\n07 29\nend 2\n").is_err());
        assert!(parse("hello\n").is_err());
    }
}
