//! An error as people read it: on one line, each cause once.

/// The error and its causes, outermost first. A cause that the text before it says already is left out: some errors show
/// their source themselves.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().replace('\n', " ");
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn each_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("bind [::]:1: {source}")]
        struct Shown {
            source: std::io::Error,
        }
        let shown = Shown { source: std::io::Error::from_raw_os_error(98) };
        let error = Err::<(), _>(shown).context("--listen-port").unwrap_err();
        assert_eq!(one_line(&error), "--listen-port: bind [::]:1: Address already in use (os error 98)");
        let error = anyhow::anyhow!("inner\nline").context("outer");
        assert_eq!(one_line(&error), "outer: inner line");
    }
}
