//! The backup of the store: whether its bucket can be read, and how the uploads of a running service go.

use super::Finding;
use crate::backup::{self, Standing};
use crate::config;

const CHECK: &str = "backup";

/// Looks into the bucket, and changes nothing there.
pub async fn check(settings: &config::Backup) -> Finding {
    let place = settings.describe();
    match backup::newest(settings).await {
        Ok(Some(number)) => {
            Finding::ok(CHECK, format!("{place} can be read; its newest snapshot is {number}"))
        }
        Ok(None) => Finding::ok(CHECK, format!("{place} can be read, and holds no snapshot yet")),
        Err(why) => Finding::broken(
            CHECK,
            format!("{place} cannot be read: {why}"),
            "look at BACKUP_URL, AWS_ENDPOINT_URL_S3, AWS_REGION and the key, which must read, write, list and delete",
        ),
    }
}

/// How the uploads of this service go.
pub fn uploads(standing: &Standing) -> Finding {
    match standing.trouble() {
        None => Finding::ok(CHECK, "what changes goes to the bucket of BACKUP_URL"),
        Some(trouble) => Finding::broken(
            CHECK,
            trouble,
            "let one process alone use this BACKUP_URL, and see that its key may write; then restart",
        ),
    }
}
