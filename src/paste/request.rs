//! An HTTP request as a browser's tool tells it, whichever form it was copied in.

use url::Url;

use super::Mistake;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The address.
    pub url: Url,
    /// The method, in capitals.
    pub method: String,
    /// The headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<String>,
}

impl Request {
    /// A request of these parts, as far as the text tells them.
    ///
    /// # Errors
    /// When there is no address.
    pub fn new(
        address: Option<String>,
        method: Option<String>,
        headers: Vec<(String, String)>,
        body: Option<String>,
    ) -> Result<Self, Mistake> {
        let address = address.ok_or(Mistake::NO_ADDRESS)?;
        // curl takes an address without a scheme.
        let url = Url::parse(&address).or_else(|_| Url::parse(&format!("https://{address}")));
        let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or(Mistake::NO_HTTP)?;
        let method = method.unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.into());
        Ok(Request { url, method, headers, body })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
