//! Command lines of the form `--name value`.

use std::collections::HashMap;
use std::str::FromStr;

/// The values by name.
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    /// Those of this process. Ends it when they are not of the form.
    pub fn of_process() -> Self {
        let mut values = HashMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            match (name.strip_prefix("--"), words.next()) {
                (Some(name), Some(value)) => values.insert(name.to_string(), value),
                _ => fail(&format!("not of the form --name value: {name}")),
            };
        }
        Arguments(values)
    }

    /// A text that may be absent.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value with a default.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> T {
        self.text(name).map_or(default, |text| {
            text.parse().unwrap_or_else(|_| fail(&format!("bad value of --{name}: {text}")))
        })
    }

    /// A text that must be there.
    pub fn need(&self, name: &str) -> &str {
        self.text(name).unwrap_or_else(|| fail(&format!("--{name} is missing")))
    }
}

/// Ends the process with a message.
pub fn fail(message: &str) -> ! {
    eprintln!("error: {message}");
    std::process::exit(2)
}
