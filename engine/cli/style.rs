//! Plain terminal output: alignment, and a little colour where a person looks at a terminal and has not said NO_COLOR.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whether to colour.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// For what goes to stdout.
    pub fn stdout() -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style { colour: std::io::stdout().is_terminal() && !refused && !dumb }
    }

    /// Without colour.
    pub fn plain() -> Style {
        Style { colour: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Headings.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What is less important.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Good.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Bad.
    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Worth a look.
    pub fn note(self, text: &str) -> String {
        self.paint("33", text)
    }
}

/// Exactly `width` columns of `text`: padded, or cut with an ellipsis. Control characters become spaces, since titles
/// come from files.
pub fn fit(text: &str, width: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let count = text.chars().count();
    if count <= width {
        let mut shown: String = clean.collect();
        shown.extend(std::iter::repeat_n(' ', width - count));
        return shown;
    }
    let mut shown: String = clean.take(width.saturating_sub(1)).collect();
    shown.push('…');
    shown
}

/// A progress bar on stderr; hidden unless that is a terminal.
pub fn progress(total: usize, doing: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg:<12} {bar:32} {pos}/{len}  {eta} left") {
        bar.set_style(style);
    }
    bar.set_message(doing);
    bar
}

/// A spinner on stderr for work of unknown length; hidden unless that is a terminal.
pub fn spinner(doing: impl Into<std::borrow::Cow<'static, str>>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    bar.set_message(doing);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_text_to_columns() {
        assert_eq!(fit("ab", 4), "ab  ");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("é\u{7}x", 3), "é x");
        assert_eq!(Style::plain().bold("x"), "x");
    }
}
