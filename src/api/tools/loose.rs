//! Values of optional parameters as Dify and its models send them: numbers may be text, and what stands
//! for nothing is nothing.

use serde::{Deserialize, Deserializer, de};

/// What models and templates write into a parameter that they leave out, in any case.
const ABSENT: [&str; 6] = ["", "none", "null", "n/a", "new", "undefined"];

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, as text or number")]
enum Loose {
    Number(f64),
    Text(String),
    Absent(()),
}

/// A text without the blanks around it.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| text.trim().to_string()).filter(|text| !is_absent(text)))
}

/// A number.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Loose::deserialize(deserializer)? {
        Loose::Absent(()) => Ok(None),
        Loose::Number(number) => Ok(Some(number)),
        Loose::Text(text) if is_absent(text.trim()) => Ok(None),
        Loose::Text(text) => {
            let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
            number.map(Some).ok_or_else(|| de::Error::custom("expected a number, as text or number"))
        }
    }
}

fn is_absent(text: &str) -> bool {
    ABSENT.iter().any(|word| text.eq_ignore_ascii_case(word))
}
