//! The page of keys: who may call, how much of what they may is used, and the dialogs that change it. The
//! changes themselves are made through `/api/keys`.

use std::collections::HashMap;
use std::time::SystemTime;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use minijinja::context;
use minijinja::value::Serde;
use serde_json::{Value, json};

use super::figures::{Span, bytes, short};
use super::page::{self, Page};
use crate::domain::chat::Owner;
use crate::domain::keys;
use crate::domain::limits::milliseconds;
use crate::gateway::{Gateway, LimitState, StoredKey, Use};
use crate::http::auth::Guard;
use crate::http::failure::Failure;
use crate::http::page::Language;

/// The page.
pub const PAGE: Page = Page {
    id: "keys",
    is_listed: true,
    template: include_str!("keys.html"),
    messages: [include_str!("messages.keys.en.json"), include_str!("messages.keys.zh-Hant.json")],
    script: Some(include_str!("keys.js")),
    style: include_str!("keys.css"),
};

/// From how much of a limit on it is said to be near.
const NEAR: f64 = 80.0;

/// How long before its end a key is said to end soon: a week, in milliseconds.
const SOON: i64 = 7 * 86_400_000;

#[get("/console/part/keys")]
pub async fn part(
    request: HttpRequest,
    gateway: Data<Gateway>,
    guard: Data<Guard>,
) -> Result<HttpResponse, Failure> {
    let read = async {
        let uses = gateway.uses().await?;
        let mut rows = Vec::new();
        let mut stored = Vec::new();
        for (key, last_used_at) in gateway.keys().await? {
            let states = gateway.limit_states(&key.owner).await?;
            let used = uses.get(&key.owner).copied().unwrap_or_default();
            stored.push(key.owner.clone());
            rows.push(row(&key, last_used_at, &states, used, gateway.usual_storage()));
        }
        rows.extend(configured(&guard, &stored, &uses, gateway.usual_storage()));
        Ok(rows)
    };
    let rows = read.await.map_err(|error| Failure::new(&request, error))?;
    let context = context! { keys => Serde(rows), open => !guard.needs_key() };
    Ok(page::part(&PAGE, Language::of(&request), context))
}

/// A key of the store, as the page shows it.
fn row(
    key: &StoredKey,
    last_used_at: Option<i64>,
    states: &[LimitState],
    used: Use,
    usual: Option<u64>,
) -> Value {
    let now = milliseconds(SystemTime::now());
    let limits = &key.limits;
    let spent = states.iter().filter(|state| state.left == 0 && state.name != "parallel");
    let spent = spent.max_by_key(|state| state.reset);
    let left = limits.expires_at.map(|end| end - now);
    json!({
        "name": key.name,
        "made": Span::of(now - key.created_at),
        "used": last_used_at.map(|at| Span::of(now - at)),
        "ended": left.is_some_and(|left| left <= 0),
        "ends": left.filter(|left| (1..SOON).contains(left)).map(Span::of),
        "models": limits.models.as_ref().map(|models| models.join(", ")),
        "paths": limits.paths.join(", "),
        "spent": spent.map(|state| json!({
            "limit": state.name.replace('-', "_"),
            "back": Span::of(state.reset.as_millis() as i64 + 59_999),
        })),
        "cells": cells(states, used, limits.storage_bytes.map_or(usual, |most| Some(most).filter(|most| *most > 0))),
        "limits": json!({
            "expires_at": limits.expires_at,
            "models": limits.models,
            "rpm": limits.requests_per_minute,
            "parallel": limits.parallel,
            "tokens_per_day": limits.tokens_per_day,
            "tokens_per_month": limits.tokens_per_month,
            "storage_bytes": limits.storage_bytes,
            "paths": limits.paths,
        }).to_string(),
    })
}

/// The keys of the environment, which the store does not have.
fn configured(guard: &Guard, stored: &[Owner], uses: &HashMap<Owner, Use>, usual: Option<u64>) -> Vec<Value> {
    let mut names: Vec<_> = guard.names().into_iter().collect();
    names.retain(|(owner, _)| owner.0.as_ref() != keys::OWNER && !stored.contains(owner));
    names.sort_by(|(_, one), (_, other)| one.cmp(other));
    let row = |(owner, name)| {
        let used = uses.get(&owner).copied().unwrap_or_default();
        json!({"name": name, "locked": true, "cells": cells(&[], used, usual)})
    };
    names.into_iter().map(row).collect()
}

/// What a key has used, beside its limits where it has them.
fn cells(states: &[LimitState], used: Use, most_kept: Option<u64>) -> Vec<Value> {
    let limit = |name: &str| states.iter().find(|state| state.name == name);
    let counted = |id: &str, name: &str| {
        let state = limit(name)?;
        Some(cell(id, state.limit - state.left, Some(state.limit), short))
    };
    // What is counted for a limit is exact at once; the sums of all keys follow within seconds.
    let tokens =
        |id: &str, name: &str, sum: u64| counted(id, name).unwrap_or_else(|| cell(id, sum, None, short));
    let at_once = [counted("requests", "requests"), counted("parallel", "parallel")];
    let mut cells: Vec<_> = at_once.into_iter().flatten().collect();
    cells.push(tokens("tokens_day", "tokens-day", used.tokens_of_day));
    cells.push(tokens("tokens_month", "tokens-month", used.tokens_of_month));
    cells.push(cell("kept", used.kept_bytes, most_kept, bytes));
    cells
}

fn cell(id: &str, used: u64, most: Option<u64>, said: fn(u64) -> String) -> Value {
    let share =
        most.map(|most| if most == 0 { 100.0 } else { (100.0 * used as f64 / most as f64).min(100.0) });
    let state = match share {
        Some(share) if share >= 100.0 => "full",
        Some(share) if share >= NEAR => "near",
        _ => "",
    };
    json!({"id": id, "used": said(used), "most": most.map(said), "share": share, "state": state})
}
