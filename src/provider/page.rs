//! What a web page says that came in the place of an answer: by its title, and whether it asks for a login.

/// What stands on pages that ask for a login, in lower case.
const LOGIN: [&str; 9] =
    ["log in", "login", "log-in", "sign in", "signin", "sign-in", "type=\"password\"", "登录", "登入"];

/// What a web page is, which came in the place of an answer.
pub struct Page {
    /// Its title, or what it begins with, if it has one.
    pub title: Option<String>,
    /// Whether it asks for a login.
    pub is_login: bool,
}

impl Page {
    /// The page that begins so.
    pub fn of(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let within = |tag: &str| {
            let start = lower.find(tag)?;
            let begin = start + lower[start..].find('>')? + 1;
            let end = begin + lower[begin..].find('<')?;
            Some(text[begin..end].trim().to_string()).filter(|title| !title.is_empty())
        };
        // What is no page of HTML has its words in a message.
        let title = ["<title", "<h1", "<message"].iter().find_map(|tag| within(tag));
        let is_login = LOGIN.iter().any(|words| lower.contains(words));
        Page { title, is_login }
    }
}
