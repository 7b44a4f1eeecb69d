//! What each gateway key has used: in all, and by the day and the model.

use std::collections::HashMap;

use super::Store;
use super::statement::{Row, Statement, Text, Value, text};
use crate::domain::chat::{Owner, Tally};
use crate::domain::error::Error;

const ADD: &Text = text![
    "INSERT INTO key_usage (owner, requests, prompt_tokens, completion_tokens, estimated, created_at) \
     VALUES ($1, $2, $3, $4, $5, " now ") ON CONFLICT (owner) DO UPDATE SET \
     requests = key_usage.requests + excluded.requests, \
     prompt_tokens = key_usage.prompt_tokens + excluded.prompt_tokens, \
     completion_tokens = key_usage.completion_tokens + excluded.completion_tokens, \
     estimated = key_usage.estimated + excluded.estimated"
];
const ADD_TO_DAY: &Text = text![
    "INSERT INTO usage_by_day (owner, requests, prompt_tokens, completion_tokens, estimated, model, day, last_at) \
     VALUES ($1, $2, $3, $4, $5, $6, " now " / 86400000, " now ") ON CONFLICT (owner, day, model) DO UPDATE SET \
     requests = usage_by_day.requests + excluded.requests, \
     prompt_tokens = usage_by_day.prompt_tokens + excluded.prompt_tokens, \
     completion_tokens = usage_by_day.completion_tokens + excluded.completion_tokens, \
     estimated = usage_by_day.estimated + excluded.estimated, last_at = excluded.last_at"
];
const READ: &Text = text![
    "SELECT requests, prompt_tokens, completion_tokens, estimated, created_at FROM key_usage WHERE owner = $1"
];
const READ_DAYS: &Text = text![
    "SELECT requests, prompt_tokens, completion_tokens, estimated, day, owner, model FROM usage_by_day \
     WHERE day > " now " / 86400000 - $1 ORDER BY day DESC, owner, model"
];
const LAST_USES: &Text = text!["SELECT owner, MAX(last_at) FROM usage_by_day GROUP BY owner"];
const EXPIRE: &Text = text!["DELETE FROM usage_by_day WHERE day < " now " / 86400000 - $1"];

/// What one key used of one model in one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayOfUse {
    /// The day in UTC, in days since 1970.
    pub day: i64,
    /// Whose key it was.
    pub owner: Owner,
    /// The model; empty where none was named.
    pub model: String,
    /// What was used.
    pub tally: Tally,
}

impl Store {
    /// Adds to what keys have used of models, all or nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn add_usage(&self, mut tallies: Vec<(Owner, String, Tally)>) -> Result<(), Error> {
        // In one order, so that two replicas never wait for each other.
        tallies.sort_by(|one, other| (&one.0.0, &one.1).cmp(&(&other.0.0, &other.1)));
        let add = |(owner, model, tally): (Owner, String, Tally)| {
            let counts = [tally.requests, tally.prompt_tokens, tally.completion_tokens, tally.estimated];
            let mut values: Vec<Value> = vec![owner.0.as_ref().into()];
            values.extend(counts.map(|count| Value::from(count as i64)));
            let in_all = Statement::new(ADD, values.clone());
            values.push(model.into());
            [in_all, Statement::new(ADD_TO_DAY, values)]
        };
        self.write(tallies.into_iter().flat_map(add).collect::<Vec<_>>()).await.map(drop)
    }

    /// What a key has used, and since when, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage(&self, owner: &Owner) -> Result<(Tally, Option<i64>), Error> {
        let query = Statement::new(READ, [owner.0.as_ref().into()]);
        let Some(row) = self.read(query).await?.pop() else { return Ok((Tally::default(), None)) };
        Ok((tally(&row)?, Some(row.integer(4)?)))
    }

    /// What all keys used in so many last days, today with them, the latest first.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage_by_day(&self, days: u32) -> Result<Vec<DayOfUse>, Error> {
        let day = |mut row: Row| {
            Ok(DayOfUse {
                tally: tally(&row)?,
                day: row.integer(4)?,
                owner: Owner(row.text(5)?.into()),
                model: row.text(6)?,
            })
        };
        let query = Statement::new(READ_DAYS, [i64::from(days).into()]);
        self.read(query).await?.into_iter().map(day).collect()
    }

    /// When each owner's key was last used, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn last_uses(&self) -> Result<HashMap<Owner, i64>, Error> {
        let last = |mut row: Row| Ok((Owner(row.text(0)?.into()), row.integer(1)?));
        self.read(Statement::new(LAST_USES, [])).await?.into_iter().map(last).collect()
    }

    /// Forgets what was used on days that are longer ago than that; the sums of all days stay.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn expire_usage(&self, days: u32) -> Result<(), Error> {
        self.write([Statement::new(EXPIRE, [i64::from(days).into()])]).await.map(drop)
    }
}

fn tally(row: &Row) -> Result<Tally, Error> {
    let number = |column| row.integer(column).map(|number| number as u64);
    Ok(Tally {
        requests: number(0)?,
        prompt_tokens: number(1)?,
        completion_tokens: number(2)?,
        estimated: number(3)?,
    })
}
