//! What a page of the console is made of, and how its frame and its part are rendered.

use std::collections::HashMap;
use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, context};
use serde_json::Value as Json;

use super::{PAGES, assets};
use crate::http::auth::Guard;
use crate::http::page::{self, Language, messages};

/// A page of the console.
pub struct Page {
    /// Its name in addresses. Its name to people is the message `title`.
    pub id: &'static str,
    /// Whether the navigation lists it, under the icon of its name.
    pub is_listed: bool,
    /// The template of its part. It has `t`, the messages of the page over those of all; `lang`; and what
    /// the part's own context holds. Macros: `{% import "parts.html" as p %}`.
    pub template: &'static str,
    /// The messages in English and in Traditional Chinese.
    pub messages: [&'static str; 2],
    /// An ES module, whose `start(main)` is called each time when the part was put in.
    pub script: Option<&'static str>,
    /// Rules beside those of `style.css`.
    pub style: &'static str,
}

const COMMON: [&str; 2] = [include_str!("messages.en.json"), include_str!("messages.zh-Hant.json")];

/// The texts of each page and language, those of all pages among them.
static TEXTS: LazyLock<HashMap<(&str, usize), Json>> = LazyLock::new(|| {
    let of = |page: &'static Page, index: usize| {
        let mut texts = messages(COMMON[index]);
        if let (Json::Object(texts), Json::Object(own)) = (&mut texts, messages(page.messages[index])) {
            texts.extend(own);
        }
        ((page.id, index), texts)
    };
    PAGES.iter().flat_map(|page| [of(page, 0), of(page, 1)]).collect()
});

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut templates = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    templates.set_syntax(syntax.expect("the usual delimiters"));
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    let shared = [
        ("frame", include_str!("frame.html")),
        ("parts.html", include_str!("parts.html")),
        ("state", include_str!("state.html")),
        ("overview_calls.html", include_str!("overview_calls.html")),
        ("doctor", include_str!("doctor.html")),
    ];
    for (name, text) in shared.into_iter().chain(PAGES.iter().map(|page| (page.id, page.template))) {
        templates.add_template(name, text).expect("the console's templates are good");
    }
    templates
});

/// The frame of a page, which holds no data.
pub fn frame(page: &Page, language: Language, request: &HttpRequest, guard: &Guard) -> HttpResponse {
    let listed = PAGES.iter().filter(|page| page.is_listed).map(|page| {
        let texts = &TEXTS[&(page.id, index(language))];
        context! { id => page.id, title => Serde(&texts["title"]) }
    });
    let is_asked = request.query_string().split('&').any(|pair| pair.starts_with("lang="));
    let context = context! {
        pages => listed.collect::<Vec<_>>(),
        page => page.id,
        solo => !page.is_listed,
        script => page.script.map(|_| format!("{}.js", page.id)),
        assets => assets::folder(),
        // The language goes on in links only where the address named it: else the browser's holds.
        query => if is_asked { format!("?lang={}", language.tag()) } else { String::new() },
        choice => !is_asked && Language::is_near(request),
        open => !guard.needs_key(),
        has_owner => guard.has_owner(),
    };
    page::html(render("frame", page, language, context))
}

/// The part of a page, with what its template needs.
pub fn part(page: &Page, language: Language, context: Value) -> HttpResponse {
    page::html(render(page.id, page, language, context))
}

/// A template with the texts of the page that it belongs to.
pub fn render(template: &str, page: &Page, language: Language, own: Value) -> String {
    let texts = Serde(&TEXTS[&(page.id, index(language))]);
    let context = context! { t => texts, lang => language.tag(), ..own };
    let rendered = TEMPLATES.get_template(template).and_then(|template| template.render(context));
    rendered.expect("the templates name only what their contexts hold")
}

fn index(language: Language) -> usize {
    match language {
        Language::English => 0,
        Language::TraditionalChinese => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of messages that a template uses.
    fn used(template: &str) -> Vec<&str> {
        let ends = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
        let pieces = template.split([' ', '(', '[', '{']);
        let names = pieces.filter_map(|piece| piece.strip_prefix("t."));
        names.map(|name| &name[..name.find(ends).unwrap_or(name.len())]).collect()
    }

    #[test]
    fn both_languages_have_the_messages_that_templates_use() {
        let mut templates: Vec<_> = PAGES.iter().map(|page| (*page, page.template)).collect();
        let shared =
            [include_str!("frame.html"), include_str!("state.html"), include_str!("overview_calls.html")];
        templates.extend(shared.map(|template| (PAGES[0], template)));
        for (page, template) in templates {
            let [english, chinese] = [0, 1].map(|index| &TEXTS[&(page.id, index)]);
            let names = |texts: &Json| texts.as_object().expect("texts").keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(english), names(chinese), "{}", page.id);
            for name in used(template) {
                assert!(english[name].is_string(), "{}: no message `{name}`", page.id);
            }
        }
        assert!(used(include_str!("frame.html")).len() > 10, "messages are found in templates");
    }
}
