//! The console's scripts and style sheet. Their folder is named after what is in them, so browsers may keep
//! them for ever, and modules that import each other get the same version.

use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse, get};
use sha2::{Digest, Sha256};

use super::PAGES;
use crate::domain::error::{Error, Kind};
use crate::domain::keys::hex;
use crate::http::failure::Failure;

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file that pages load.
struct Asset {
    name: String,
    media_type: &'static str,
    text: String,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let file =
        |name: &str, media_type, text: &str| Asset { name: name.into(), media_type, text: text.into() };
    let style: String =
        [include_str!("style.css")].into_iter().chain(PAGES.iter().map(|page| page.style)).collect();
    let shared = [
        file("style.css", STYLE, &style),
        file("early.js", SCRIPT, include_str!("early.js")),
        file("console.js", SCRIPT, include_str!("console.js")),
        // It was made for pages that are no modules.
        file(
            "uplot.js",
            SCRIPT,
            concat!(include_str!("vendor/uplot/uPlot.iife.min.js"), "export default uPlot;\n"),
        ),
    ];
    let scripts = PAGES
        .iter()
        .filter_map(|page| page.script.map(|script| file(&format!("{}.js", page.id), SCRIPT, script)));
    shared.into_iter().chain(scripts).collect()
});

/// The folder of the files, as it stands in addresses.
pub fn folder() -> &'static str {
    static FOLDER: LazyLock<String> = LazyLock::new(|| {
        let mut digest = Sha256::new();
        for Asset { name, text, .. } in ASSETS.iter() {
            digest.update(format!("{name} {} {text}", text.len()));
        }
        format!("/assets/console/{}", hex(&digest.finalize()[..8]))
    });
    &FOLDER
}

#[get("/assets/console/{version}/{name}")]
pub async fn asset(request: HttpRequest, path: Path<(String, String)>) -> Result<HttpResponse, Failure> {
    let (version, name) = path.into_inner();
    let missing = || Failure::new(&request, Error::new(Kind::NotFound, "there is no such file"));
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(missing)?;
    // A page of another version gets what there is: a replica may be newer than the one that gave the page.
    let lasts = folder().ends_with(&version);
    let kept = if lasts { "public, max-age=31536000, immutable" } else { "no-store" };
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, asset.media_type))
        .insert_header((header::CACHE_CONTROL, kept))
        .body(asset.text.as_str()))
}
