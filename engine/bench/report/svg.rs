//! A plot as SVG text: two axes with ticks, and lines, dots and bars in their coordinates.
//!
//! Colours are classes, so that the page's style sheet decides for light and dark; nothing is drawn by script. A crate for
//! plots would bring its own colours and fonts, and would still need this for text that a screen reader can use.

use std::fmt::Write;

/// Size of the drawing; the page scales it.
const WIDTH: f64 = 560.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Equal steps.
    Linear,
    /// Equal factors.
    Log,
    /// Shares, by the number of nines: 90%, 99% and 99.9% are equally far apart.
    Nines,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    kind: Kind,
    low: f64,
    high: f64,
    label: &'static str,
}

impl Axis {
    /// From 0 to a little more than `high`.
    pub fn linear(label: &'static str, high: f64) -> Axis {
        Axis { kind: Kind::Linear, low: 0.0, high: if high > 0.0 { high } else { 1.0 }, label }
    }

    /// Around `values`, of which those above 0 count.
    pub fn log(label: &'static str, values: impl Iterator<Item = f64>) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        let (low, high) = if high > 0.0 { (low / 1.25, high * 1.25) } else { (0.1, 10.0) };
        // At least half a power of ten: noise must not fill a plot.
        let room = (10f64.sqrt() / (high / low)).max(1.0).sqrt();
        Axis { kind: Kind::Log, low: low / room, high: high * room, label }
    }

    /// Shares from 0 to `high`, which is below 1.
    pub fn nines(label: &'static str, high: f64) -> Axis {
        Axis { kind: Kind::Nines, low: 0.0, high: high.clamp(0.9, 0.999_999_9), label }
    }

    /// Place of a value, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let project = |value: f64| match self.kind {
            Kind::Linear => value,
            Kind::Log => value.max(self.low).ln(),
            Kind::Nines => -(1.0 - value.min(self.high)).ln(),
        };
        let (low, high) = (project(self.low), project(self.high));
        ((project(value) - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Values that are marked, with their text.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.kind {
            Kind::Linear => {
                let step = round_step(self.high / 5.0);
                (0..=(self.high / step + 1e-9) as usize).map(|at| at as f64 * step).map(|at| (at, number(at))).collect()
            }
            Kind::Log => {
                let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
                let steps: &[f64] = if self.high / self.low > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
                all.filter(|at| (self.low..=self.high).contains(at)).map(|at| (at, number(at))).collect()
            }
            Kind::Nines => {
                let marks = [(0.0, "0%"), (0.5, "50%"), (0.9, "90%"), (0.99, "99%"), (0.999, "99.9%")];
                let more = [(0.9999, "99.99%"), (0.99999, "99.999%"), (0.999_999, "99.9999%")];
                let shown = marks.into_iter().chain(more).filter(|(mark, _)| *mark <= self.high + 1e-12);
                shown.map(|(mark, text)| (mark, text.to_owned())).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, near `value`.
fn round_step(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    match value / power {
        digit if digit < 1.5 => power,
        digit if digit < 3.5 => 2.0 * power,
        digit if digit < 7.5 => 5.0 * power,
        _ => 10.0 * power,
    }
}

/// A number with three digits, or all of those before the point.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size < 1.0 => 3,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Text where markup is read.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Control characters have no place in markup, escaped or not.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A drawing with axes.
pub struct Plot {
    x: Axis,
    y: Axis,
    height: f64,
    body: String,
}

impl Plot {
    /// An empty one.
    pub fn new(x: Axis, y: Axis, height: f64) -> Plot {
        Plot { x, y, height, body: String::new() }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let (width, height) = (WIDTH - LEFT - RIGHT, self.height - TOP - BOTTOM);
        (LEFT + self.x.place(x) * width, TOP + (1.0 - self.y.place(y)) * height)
    }

    /// A line through `points`; `class` has its colour.
    pub fn line(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in points {
            let (x, y) = self.at(x, y);
            let verb = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{x:.1} {y:.1}");
        }
        if !path.is_empty() {
            let _ = write!(self.body, "<path class=\"line {class}\" d=\"{path}\" />");
        }
    }

    /// A mark with a text that shows when it is pointed at.
    pub fn dot(&mut self, class: &str, (x, y): (f64, f64), told: &str) {
        let (x, y) = self.at(x, y);
        let told = escape(told);
        let _ = write!(
            self.body,
            "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{told}</title></circle>"
        );
    }

    /// A bar from `x.0` to `x.1`, between two heights.
    pub fn bar(&mut self, class: &str, x: (f64, f64), y: (f64, f64), told: &str) {
        let ((left, top), (right, bottom)) = (self.at(x.0, y.1), self.at(x.1, y.0));
        let (width, height, told) = ((right - left - 1.0).max(0.5), bottom - top, escape(told));
        let _ = write!(
            self.body,
            "<rect class=\"bar {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
             <title>{told}</title></rect>"
        );
    }

    /// A line across the whole plot, with its name.
    pub fn level(&mut self, class: &str, y: f64, name: &str) {
        let (_, y) = self.at(0.0, y);
        // Names stand on the left, where curves are low.
        let (right, left, above) = (WIDTH - RIGHT, LEFT + 8.0, if y < TOP + 18.0 { y + 16.0 } else { y - 6.0 });
        let name = escape(name);
        let _ = write!(
            self.body,
            "<path class=\"line {class}\" d=\"M{LEFT} {y:.1}L{right} {y:.1}\" />\
             <text class=\"name\" x=\"{left}\" y=\"{above:.1}\">{name}</text>"
        );
    }

    /// The drawing, with what a screen reader says of it.
    pub fn finish(self, title: &str) -> String {
        let mut axes = String::new();
        let (bottom, right) = (self.height - BOTTOM, WIDTH - RIGHT);
        for (value, text) in self.y.ticks() {
            let (_, y) = self.at(0.0, value);
            let _ = write!(
                axes,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\" /><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 7.0,
                y + 4.0
            );
        }
        for (value, text) in self.x.ticks() {
            let (x, _) = self.at(value, 0.0);
            let _ = write!(
                axes,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\" /><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                bottom + 17.0
            );
        }
        let (middle_x, middle_y) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        let Plot { x, y, height, body } = self;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{axes}\
             <path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\" />\
             <text class=\"label\" x=\"{middle_x}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" transform=\"translate(14 {middle_y}) rotate(-90)\" text-anchor=\"middle\">{}</text>\
             {body}</svg>",
            escape(title),
            height - 8.0,
            escape(x.label),
            escape(y.label),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(texts(&Axis::linear("", 104.0)), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(texts(&Axis::linear("", 0.3)), ["0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3"]);
        assert_eq!(texts(&Axis::log("", [3.0, 40.0].into_iter())), ["5", "10", "20", "50"]);
        assert_eq!(texts(&Axis::log("", [0.5, 9000.0].into_iter())), ["1", "10", "100", "1000", "10000"]);
        assert_eq!(texts(&Axis::nines("", 0.999)), ["0%", "50%", "90%", "99%", "99.9%"]);
        // Nothing to show is still a plot.
        assert!(!texts(&Axis::log("", std::iter::empty())).is_empty());
        assert_eq!(texts(&Axis::linear("", 0.0)).len(), 6);
    }

    #[test]
    fn equal_factors_and_equal_nines_are_equally_far_apart() {
        let axis = Axis { kind: Kind::Log, low: 1.0, high: 100.0, label: "" };
        assert!((axis.place(10.0) - 0.5).abs() < 1e-12 && axis.place(0.0) == 0.0);
        let axis = Axis::nines("", 0.99);
        assert!((axis.place(0.9) - 0.5).abs() < 1e-9 && (axis.place(1.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn foreign_text_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\">&\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&amp; ");
    }

    #[test]
    fn numbers_are_short() {
        let cases =
            [(0.0, "0"), (0.05, "0.05"), (2.0, "2"), (1.256, "1.26"), (99.4, "99.4"), (123.4, "123"), (1500.0, "1500")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
