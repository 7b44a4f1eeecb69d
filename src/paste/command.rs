//! curl's options, as far as browsers write them: address, headers, cookies and body.

use super::Mistake;
use super::request::Request;

/// Options without a letter of their own that take a value which does not matter here.
const WITH_VALUE: &[&str] = &[
    "--output",
    "--max-time",
    "--connect-timeout",
    "--proxy",
    "--resolve",
    "--cacert",
    "--cert",
    "--key",
    "--retry",
    "--limit-rate",
    "--interface",
    "--write-out",
    "--cookie-jar",
    "--dump-header",
    "--user",
];

/// Reads a command.
///
/// # Errors
/// When there is no address, or the body stands in a file.
pub fn read(words: &[String]) -> Result<Request, Mistake> {
    let mut address = None;
    let mut method = None;
    let mut headers = Vec::new();
    let mut body: Option<String> = None;
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let Some((option, attached)) = split(word) else {
            address = address.or(Some(word.clone()));
            continue;
        };
        let mut value = || attached.clone().or_else(|| words.next().cloned()).unwrap_or_default();
        match option.as_str() {
            "--url" => address = Some(value()),
            "--request" => method = Some(value().to_ascii_uppercase()),
            "--header" => {
                let line = value();
                if let Some((name, text)) = line.split_once(':') {
                    headers.push((name.trim().to_ascii_lowercase(), text.trim().to_string()));
                }
            }
            "--cookie" => headers.push(("cookie".into(), value())),
            "--user-agent" => headers.push(("user-agent".into(), value())),
            "--referer" => headers.push(("referer".into(), value())),
            "--data" | "--data-ascii" | "--data-binary" | "--data-raw" | "--json" => {
                let data = value();
                if data.starts_with('@') && option != "--data-raw" {
                    return Err(Mistake::BODY_IN_A_FILE);
                }
                body = Some(body.map_or(data.clone(), |before| format!("{before}&{data}")));
            }
            option if WITH_VALUE.contains(&option) => drop(value()),
            _ => {}
        }
    }
    Request::new(address, method, headers, body)
}

/// An option by its long name, with the value that is attached to it; `None` for no option.
fn split(word: &str) -> Option<(String, Option<String>)> {
    if word.starts_with("--") {
        return Some(match word.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.to_string())),
            None => (word.to_string(), None),
        });
    }
    let mut letters = word.strip_prefix('-')?.char_indices();
    let (_, letter) = letters.next()?;
    let long = match letter {
        'H' => "--header",
        'b' => "--cookie",
        'X' => "--request",
        'd' => "--data",
        'A' => "--user-agent",
        'e' => "--referer",
        'o' => "--output",
        'm' => "--max-time",
        'x' => "--proxy",
        'w' => "--write-out",
        'c' => "--cookie-jar",
        'D' => "--dump-header",
        'u' => "--user",
        _ => return Some((word.to_string(), None)),
    };
    let attached = letters.next().map(|(at, _)| word[1 + at..].to_string());
    Some((long.to_string(), attached))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_every_spelling() {
        let text =
            "curl -sS -XPUT -HA:b --header=C:d -bx=1 -o out --compressed -d a --data b a.example.com/p";
        let words: Vec<String> = text.split(' ').map(String::from).collect();
        let request = read(&words).expect("a request");
        assert_eq!((request.method.as_str(), request.url.as_str()), ("PUT", "https://a.example.com/p"));
        assert_eq!(request.header("a"), Some("b"));
        assert_eq!((request.header("c"), request.header("cookie")), (Some("d"), Some("x=1")));
        assert_eq!(request.body.as_deref(), Some("a&b"));
    }
}
