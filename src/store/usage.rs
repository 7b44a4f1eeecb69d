//! What each gateway key has used.

use super::Store;
use super::statement::{Statement, Text, text};
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
const READ: &Text = text![
    "SELECT requests, prompt_tokens, completion_tokens, estimated, created_at FROM key_usage WHERE owner = $1"
];

impl Store {
    /// Adds to what keys have used, all or nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn add_usage(&self, mut tallies: Vec<(Owner, Tally)>) -> Result<(), Error> {
        // In one order, so that two replicas never wait for each other.
        tallies.sort_by(|(one, _), (other, _)| one.0.cmp(&other.0));
        let add = |(owner, tally): (Owner, Tally)| {
            let counts = [tally.requests, tally.prompt_tokens, tally.completion_tokens, tally.estimated];
            let mut values = vec![owner.0.into()];
            values.extend(counts.map(|count| (count as i64).into()));
            Statement::new(ADD, values)
        };
        self.write(tallies.into_iter().map(add).collect::<Vec<_>>()).await.map(drop)
    }

    /// What a key has used, and since when, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn usage(&self, owner: &Owner) -> Result<(Tally, Option<i64>), Error> {
        let query = Statement::new(READ, [owner.0.as_str().into()]);
        let Some(row) = self.read(query).await?.pop() else { return Ok((Tally::default(), None)) };
        let number = |column| row.integer(column).map(|number| number as u64);
        let tally = Tally {
            requests: number(0)?,
            prompt_tokens: number(1)?,
            completion_tokens: number(2)?,
            estimated: number(3)?,
        };
        Ok((tally, Some(row.integer(4)?)))
    }
}
