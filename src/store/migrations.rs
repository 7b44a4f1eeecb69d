//! The schema's versions, and which of them a database lacks.
//!
//! The table of versions has the name and the shape that sqlx gives it, which earlier versions of
//! this program used: so they refuse a newer database, as this one does, and their databases are
//! taken over as they are.

use sha2::{Digest, Sha384};

use super::unavailable;
use crate::domain::error::{Error, Kind};

/// One step of the schema.
pub struct Migration {
    pub version: i64,
    pub description: &'static str,
    /// Statements, the same for both databases.
    pub text: &'static str,
}

macro_rules! migrations {
    ($(($version:literal, $name:literal)),* $(,)?) => {
        [$(Migration {
            version: $version,
            description: $name,
            text: include_str!(concat!("../../migrations/", $name, ".sql")),
        }),*]
    };
}

/// All steps in order.
pub const MIGRATIONS: &[Migration] = &migrations![
    (1, "0001_conversations_and_keys"),
    (2, "0002_upstream_session"),
    (3, "0003_continuations_answers_usage"),
    (4, "0004_answers_by_owner"),
    (5, "0005_turn_ids"),
    (6, "0006_owners_of_keys"),
    (7, "0007_sizes"),
    (8, "0008_sizes_of_what_is_there"),
    (9, "0009_calls"),
    (10, "0010_owner_and_callers"),
    (11, "0011_names_of_conversations"),
    (12, "0012_lists_of_conversations"),
    (13, "0013_statistics"),
    (14, "0014_kept_upstream"),
];

impl Migration {
    /// The digest that tells whether a step was changed after it was taken.
    pub fn digest(&self) -> Vec<u8> {
        Sha384::digest(self.text).to_vec()
    }
}

/// A step as the database says that it was taken.
pub struct Taken {
    pub version: i64,
    pub success: bool,
    pub digest: Vec<u8>,
}

/// The steps that are still to be taken.
///
/// # Errors
/// [`Kind::StorageNewer`] when a newer program has changed the schema; else when the steps taken are
/// not this program's.
pub fn missing(taken: &[Taken]) -> Result<Vec<&'static Migration>, Error> {
    if let Some(newer) = taken.iter().find(|taken| MIGRATIONS.iter().all(|own| own.version != taken.version))
    {
        return Err(Error::new(
            Kind::StorageNewer,
            format!("the store's schema is newer than this program: it holds version {}", newer.version),
        ));
    }
    let mut missing = Vec::new();
    for own in MIGRATIONS {
        match taken.iter().find(|taken| taken.version == own.version) {
            None => missing.push(own),
            Some(Taken { success: true, digest, .. }) if *digest == own.digest() => {}
            Some(_) => {
                return Err(unavailable(format_args!(
                    "its schema cannot be brought up to date (version {} is not this program's)",
                    own.version
                )));
            }
        }
    }
    Ok(missing)
}
