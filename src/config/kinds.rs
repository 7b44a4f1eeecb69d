//! The kinds of settings: what a value is read from, what holds without one, and what a person is told
//! about a value that is not understood.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// What kind of value a setting takes.
pub trait Kind: Sync {
    /// The value that the program works with.
    type Value;
    /// What stands for the value in `--help`.
    fn placeholder(&self) -> &'static str;
    /// The default as it would be written; `None` where the default is no fixed text.
    fn default(&self) -> Option<String>;
    /// The value where nothing is set.
    fn unset(&self) -> Self::Value;
    /// Reads a value; `None` where it is not understood.
    fn parse(&self, text: &str) -> Option<Self::Value>;
    /// Whether it is a secret, which may stand in a file of its own and should stand on no command line.
    fn is_secret(&self) -> bool {
        false
    }
    /// What to give instead of a value that is not understood.
    fn advice(&self) -> String {
        "give another value".into()
    }
}

/// A whole number within a range.
pub struct Number<T> {
    placeholder: &'static str,
    default: T,
    range: RangeInclusive<T>,
}

/// A plain number.
pub const fn number<T>(default: T, range: RangeInclusive<T>) -> Number<T> {
    Number { placeholder: "NUMBER", default, range }
}

/// A size.
pub const fn bytes<T>(default: T, range: RangeInclusive<T>) -> Number<T> {
    Number { placeholder: "BYTES", default, range }
}

/// A time in days.
pub const fn days<T>(default: T, range: RangeInclusive<T>) -> Number<T> {
    Number { placeholder: "DAYS", default, range }
}

impl<T: Copy + Display + FromStr + PartialOrd + Sync> Kind for Number<T> {
    type Value = T;

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }

    fn default(&self) -> Option<String> {
        Some(self.default.to_string())
    }

    fn unset(&self) -> T {
        self.default
    }

    fn parse(&self, text: &str) -> Option<T> {
        text.parse().ok().filter(|number| self.range.contains(number))
    }

    fn advice(&self) -> String {
        let (least, most) = (self.range.start(), self.range.end());
        format!("give a whole number from {least} to {most}; the default is {}", self.default)
    }
}

/// A time in seconds, which may be decimal.
pub struct Seconds {
    default: f64,
}

/// What a time may be: the longest is a day.
const SECONDS: RangeInclusive<f64> = 0.001..=86_400.0;

/// A time that is always bounded.
pub const fn seconds(default: f64) -> Seconds {
    Seconds { default }
}

impl Kind for Seconds {
    type Value = Duration;

    fn placeholder(&self) -> &'static str {
        "SECONDS"
    }

    fn default(&self) -> Option<String> {
        Some(self.default.to_string())
    }

    fn unset(&self) -> Duration {
        Duration::from_secs_f64(self.default)
    }

    fn parse(&self, text: &str) -> Option<Duration> {
        let seconds = text.parse().ok().filter(|seconds| SECONDS.contains(seconds));
        seconds.map(Duration::from_secs_f64)
    }

    fn advice(&self) -> String {
        format!("give seconds from {} to {}, such as {}", SECONDS.start(), SECONDS.end(), self.default)
    }
}

/// A time in seconds, or 0 for never.
pub struct SecondsOrOff(Seconds);

/// A time that 0 switches off.
pub const fn seconds_or_off(default: f64) -> SecondsOrOff {
    SecondsOrOff(seconds(default))
}

impl Kind for SecondsOrOff {
    type Value = Option<Duration>;

    fn placeholder(&self) -> &'static str {
        self.0.placeholder()
    }

    fn default(&self) -> Option<String> {
        self.0.default()
    }

    fn unset(&self) -> Option<Duration> {
        Some(self.0.unset())
    }

    fn parse(&self, text: &str) -> Option<Option<Duration>> {
        if text.parse() == Ok(0.0) { Some(None) } else { self.0.parse(text).map(Some) }
    }

    fn advice(&self) -> String {
        format!("{}, or 0 to switch it off", self.0.advice())
    }
}

/// One of several words, each with what it means.
pub struct Choice<T: 'static> {
    placeholder: &'static str,
    choices: &'static [(&'static str, T)],
    default: T,
}

/// A switch.
pub type Flag = Choice<bool>;

/// A choice by name. A default that has no name is described in the setting's `unset`.
pub const fn choice<T>(choices: &'static [(&'static str, T)], default: T) -> Choice<T> {
    Choice { placeholder: "NAME", choices, default }
}

/// A switch by the words for yes and no.
pub const fn flag(default: bool) -> Flag {
    const WORDS: &[(&str, bool)] =
        &[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)];
    Choice { placeholder: "BOOL", choices: WORDS, default }
}

impl<T: Copy + PartialEq + Sync> Kind for Choice<T> {
    type Value = T;

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }

    fn default(&self) -> Option<String> {
        self.choices.iter().find(|(_, value)| *value == self.default).map(|(name, _)| name.to_string())
    }

    fn unset(&self) -> T {
        self.default
    }

    fn parse(&self, text: &str) -> Option<T> {
        self.choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }

    fn advice(&self) -> String {
        let names: Vec<_> = self.choices.iter().map(|(name, _)| *name).collect();
        format!("give one of: {}", names.join(", "))
    }
}

/// An IP address, with its default.
pub struct Address(pub Ipv4Addr);

impl Kind for Address {
    type Value = IpAddr;

    fn placeholder(&self) -> &'static str {
        "ADDRESS"
    }

    fn default(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn unset(&self) -> IpAddr {
        self.0.into()
    }

    fn parse(&self, text: &str) -> Option<IpAddr> {
        match text {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            _ => text.parse().ok(),
        }
    }

    fn advice(&self) -> String {
        "give an IP address, such as 127.0.0.1 (this machine) or 0.0.0.0 (all addresses)".into()
    }
}

/// Any text, named by its placeholder; rules of its own are checked where it is read.
pub struct Text {
    placeholder: &'static str,
    is_secret: bool,
}

/// A text.
pub const fn text(placeholder: &'static str) -> Text {
    Text { placeholder, is_secret: false }
}

/// A text that is a secret.
pub const fn secret(placeholder: &'static str) -> Text {
    Text { placeholder, is_secret: true }
}

impl Kind for Text {
    type Value = Option<String>;

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }

    fn default(&self) -> Option<String> {
        None
    }

    fn unset(&self) -> Option<String> {
        None
    }

    fn parse(&self, text: &str) -> Option<Option<String>> {
        Some(Some(text.into()))
    }

    fn is_secret(&self) -> bool {
        self.is_secret
    }
}

/// As [`Text`], but never without a value.
pub struct TextOr {
    placeholder: &'static str,
    default: &'static str,
}

/// A text with a default.
pub const fn text_or(placeholder: &'static str, default: &'static str) -> TextOr {
    TextOr { placeholder, default }
}

impl Kind for TextOr {
    type Value = String;

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }

    fn default(&self) -> Option<String> {
        Some(self.default.into())
    }

    fn unset(&self) -> String {
        self.default.into()
    }

    fn parse(&self, text: &str) -> Option<String> {
        Some(text.into())
    }
}
