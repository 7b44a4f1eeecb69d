//! The store in a bucket as well: what a wiped disk loses, and when nothing may be uploaded.

use std::time::Duration;

use crate::backup::{done, messages, refused, run, turn};
use crate::fake_s3::{FakeS3, Fault};
use crate::helpers::{ADMIN_KEY, KEY, call, temporary_folder};
use crate::running::Process;

const SECRET: &str = "a long and random secret, as it should be";

/// How the name of each generation begins.
const NAME: &str = "folder/mirrorgate-00000000000";

fn settings<'a>(folder: &'a str, bucket: &'a FakeS3) -> Vec<(&'a str, &'a str)> {
    vec![
        ("DATA_DIR", folder),
        ("GATEWAY_API_KEYS", KEY),
        ("ADMIN_KEY", ADMIN_KEY),
        ("BACKUP_URL", "s3://bucket/folder"),
        ("BACKUP_INTERVAL_SECONDS", "0.3"),
        ("AWS_ENDPOINT_URL", &bucket.url),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]
}

fn serve(folder: &str, bucket: &FakeS3, more: &[(&'static str, &'static str)]) -> Process {
    let mut settings = settings(folder, bucket);
    settings.extend_from_slice(more);
    Process::start(&settings)
}

/// Stops a service as platforms do, and lets its log be read.
async fn stop(mut service: Process) -> String {
    service.signal("TERM");
    let (status, _) = service.ended().await;
    assert!(status.success(), "{}", service.output());
    tokio::time::sleep(Duration::from_millis(100)).await;
    service.output()
}

async fn kill(mut service: Process) {
    service.signal("KILL");
    service.ended().await;
}

fn wipe(folder: &str) {
    std::fs::remove_dir_all(folder).expect("wiped");
}

/// A bucket that holds a store with one conversation, sealed where there is a secret.
async fn filled(more: &[(&'static str, &'static str)]) -> (FakeS3, String) {
    let bucket = FakeS3::start();
    let folder = temporary_folder();
    let service = serve(&folder, &bucket, more);
    let conversation = turn(&service, "first", "").await;
    stop(service).await;
    wipe(&folder);
    (bucket, conversation)
}

#[actix_web::test]
async fn what_was_kept_comes_back_when_the_disk_is_wiped() {
    let (bucket, folder) = (FakeS3::start(), temporary_folder());
    let service = serve(&folder, &bucket, &[]);
    let conversation = turn(&service, "first", "").await;
    let made = run(&folder, &["key", "new", "another"], &settings(&folder, &bucket), b"");
    done(&made);
    stop(service).await;
    for turns in 2..=3 {
        wipe(&folder);
        let service = serve(&folder, &bucket, &[]);
        assert_eq!(messages(&service, &conversation).await, 2 * (turns - 1));
        turn(&service, "more", &conversation).await;
        stop(service).await;
    }
    wipe(&folder);
    let service = serve(&folder, &bucket, &[]);
    assert_eq!(messages(&service, &conversation).await, 2 * 3);
    let key = String::from_utf8_lossy(&made.stdout).trim().to_string();
    let known = call(service.address, "GET", "/api/conversations", &[("x-api-key", &key)], None).await;
    assert_eq!(known.status, 200, "{}", known.text);
    assert!(service.output().contains("s3://bucket/folder/; the store comes from generation"));
}

#[actix_web::test]
async fn a_change_is_in_the_bucket_soon_and_what_does_not_change_is_left_alone() {
    let (bucket, folder) = (FakeS3::start(), temporary_folder());
    let service = serve(&folder, &bucket, &[]);
    let conversation = turn(&service, "first", "").await;
    bucket.until("a snapshot", |bucket| !bucket.snapshots().is_empty()).await;
    // The usage of the key follows within two seconds.
    let mut writes = 0;
    while writes != bucket.count("PUT") {
        writes = bucket.count("PUT");
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    let all = bucket.requests();
    messages(&service, &conversation).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bucket.requests(), all);
    kill(service).await;
    wipe(&folder);
    let service = serve(&folder, &bucket, &[]);
    assert_eq!(messages(&service, &conversation).await, 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bucket.snapshots().len(), writes - 2, "a start uploads its claim alone");
}

#[actix_web::test]
async fn in_the_bucket_the_store_is_sealed_and_a_start_without_the_secret_leaves_it_alone() {
    let secret = [("SECRET_KEY", SECRET)];
    let (bucket, conversation) = filled(&secret).await;
    let snapshots = bucket.snapshots();
    let (_, newest) = snapshots.last_key_value().expect("a snapshot");
    assert!(newest.starts_with(b"mirrorgate seal\n"));
    for content in snapshots.values() {
        assert!(!content.windows(5).any(|window| window == b"first" || window == b"SQLit"));
    }
    let (before, folder) = (bucket.objects(), temporary_folder());
    let wrong = ("SECRET_KEY", "another long and random secret, as long as it");
    for more in [None, Some(wrong)] {
        let mut settings = settings(&folder, &bucket);
        settings.extend(more);
        refused(&run(&folder, &["serve"], &settings, b""), 1, &["generation ", "SECRET_KEY", "hint: "]);
        assert_eq!(bucket.objects(), before);
    }
    // What a person has downloaded opens as well.
    refused(&run(&folder, &["restore", "-"], &[], newest), 1, &["SECRET_KEY"]);
    done(&run(&folder, &["restore", "-"], &secret, newest));
    let service = Process::start(&[("DATA_DIR", folder.as_str()), ("GATEWAY_API_KEYS", KEY)]);
    assert_eq!(messages(&service, &conversation).await, 2);
}

#[actix_web::test]
async fn what_cannot_be_read_ends_the_start_and_nothing_is_uploaded() {
    let (bucket, _) = filled(&[]).await;
    let (before, writes) = (bucket.objects(), bucket.count("PUT"));
    let folder = temporary_folder();
    for (fault, words) in [
        (Fault::Refuses("403 Forbidden", "SignatureDoesNotMatch"), "HTTP 403 (SignatureDoesNotMatch)"),
        (Fault::Refuses("301 Moved Permanently", "PermanentRedirect"), "HTTP 301 (PermanentRedirect)"),
        (Fault::Babbles, "is not understood"),
        (Fault::CutsDownloads, "breaks off"),
    ] {
        bucket.fails(fault);
        let output = run(&folder, &["serve"], &settings(&folder, &bucket), b"");
        refused(&output, 1, &["the backup at BACKUP_URL cannot be used", words, "hint: "]);
    }
    bucket.fails(Fault::None);
    let key = format!("{NAME}9");
    bucket.put(&key, b"no database".repeat(100));
    refused(&run(&folder, &["serve"], &settings(&folder, &bucket), b""), 1, &["generation 9", "damaged"]);
    bucket.remove(&key);
    // One key for the owner and for callers.
    let mut refusing = settings(&folder, &bucket);
    refusing.push(("ADMIN_KEY", KEY));
    refused(&run(&folder, &["serve"], &refusing, b""), 78, &["ADMIN_KEY"]);
    let mut unreachable = settings(&folder, &bucket);
    unreachable.push(("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"));
    refused(&run(&folder, &["serve"], &unreachable, b""), 1, &["nothing listens there"]);
    assert_eq!((bucket.objects(), bucket.count("PUT")), (before, writes));
}

#[actix_web::test]
async fn who_starts_last_has_the_backup_and_the_one_before_says_so() {
    let (bucket, conversation) = filled(&[]).await;
    let folders = [temporary_folder(), temporary_folder()];
    let earlier = serve(&folders[0], &bucket, &[]);
    let later = serve(&folders[1], &bucket, &[]);
    turn(&earlier, "lost", &conversation).await;
    let begin = std::time::Instant::now();
    while !earlier.output().contains("another process has taken the backup over") {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", earlier.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (service, status) in [(&earlier, "broken"), (&later, "ok")] {
        let found = call(service.address, "GET", "/api/doctor", &[("x-api-key", ADMIN_KEY)], None).await;
        let findings = found.json()["findings"].clone();
        let findings = findings.as_array().unwrap_or_else(|| panic!("{}", found.text));
        let backup = findings.iter().find(|finding| finding["check"] == "backup");
        assert_eq!(backup.expect("a finding")["status"], status);
    }
    let writes = bucket.count("PUT");
    turn(&earlier, "lost, too", &conversation).await;
    let output = stop(earlier).await;
    assert_eq!(bucket.count("PUT"), writes, "{output}");
    turn(&later, "kept", &conversation).await;
    stop(later).await;
    wipe(&folders[1]);
    assert_eq!(messages(&serve(&folders[1], &bucket, &[]), &conversation).await, 4);
}

#[actix_web::test]
async fn an_upload_that_breaks_off_is_made_again_and_one_whose_answer_is_lost_is_its_own() {
    for fault in [Fault::CutsUploads, Fault::LosesAnswers, Fault::Refuses("503 Slow Down", "SlowDown")] {
        let (bucket, folder) = (FakeS3::start(), temporary_folder());
        let service = serve(&folder, &bucket, &[]);
        bucket.fails(fault);
        let conversation = turn(&service, "first", "").await;
        bucket.until("uploads that fail", |bucket| bucket.count("PUT") >= 4).await;
        assert_eq!(bucket.snapshots().len(), usize::from(fault == Fault::LosesAnswers));
        turn(&service, "second", &conversation).await;
        bucket.fails(Fault::None);
        let output = stop(service).await;
        assert!(
            output.contains("are not in the bucket: ") && !output.contains("another process"),
            "{output}"
        );
        wipe(&folder);
        assert_eq!(messages(&serve(&folder, &bucket, &[]), &conversation).await, 4);
    }
}

#[actix_web::test]
async fn a_bucket_without_conditions_is_told_of_and_used() {
    for fault in [Fault::KnowsNoConditions, Fault::IgnoresConditions] {
        let (bucket, folder) = (FakeS3::start(), temporary_folder());
        bucket.fails(fault);
        let service = serve(&folder, &bucket, &[]);
        let conversation = turn(&service, "first", "").await;
        let output = stop(service).await;
        assert!(output.contains("no conditional PUT"), "{output}");
        let number = bucket.snapshots().keys().last().cloned().expect("a snapshot");
        wipe(&folder);
        let service = serve(&folder, &bucket, &[]);
        turn(&service, "second", &conversation).await;
        // Another process creates what this one would create next.
        let claim = bucket.objects().keys().last().cloned().expect("a claim");
        assert!(claim > number);
        let next = claim.trim_start_matches(NAME).parse::<u64>().expect("a number") + 1;
        bucket.put(&format!("{NAME}{next}"), b"another's".to_vec());
        let output = stop(service).await;
        assert!(output.contains("another process has taken the backup over"), "{output}");
        assert_eq!(bucket.objects()[&format!("{NAME}{next}")], b"another's");
    }
}

#[actix_web::test]
async fn a_store_that_is_there_is_used_and_few_generations_are_kept() {
    let (bucket, _) = filled(&[]).await;
    let folder = temporary_folder();
    let alone = Process::start(&[("DATA_DIR", &folder), ("GATEWAY_API_KEYS", KEY)]);
    let conversation = turn(&alone, "of this disk", "").await;
    stop(alone).await;
    let service = serve(&folder, &bucket, &[]);
    for turns in 1..=10 {
        assert_eq!(messages(&service, &conversation).await, 2 * turns);
        let newest = bucket.snapshots().keys().last().cloned();
        turn(&service, "more", &conversation).await;
        bucket.until("the next", |bucket| bucket.snapshots().keys().last().cloned() != newest).await;
    }
    stop(service).await;
    assert_eq!(bucket.snapshots().len(), 8);
    assert_eq!(bucket.objects().len(), 8, "earlier claims go");
    wipe(&folder);
    assert_eq!(messages(&serve(&folder, &bucket, &[]), &conversation).await, 22);
}

#[test]
fn a_command_makes_no_store_that_would_take_the_backups_place() {
    let (bucket, folder) = (FakeS3::start(), temporary_folder());
    for arguments in [&["key", "list"][..], &["key", "new", "x"], &["chat", "Hello"]] {
        let output = run(&folder, arguments, &settings(&folder, &bucket), b"");
        refused(&output, 1, &["not restored", "start the service"]);
    }
    let found = run(&folder, &["doctor"], &settings(&folder, &bucket), b"");
    assert!(!std::path::Path::new(&format!("{folder}/mirrorgate.db")).exists());
    let told = String::from_utf8_lossy(&found.stdout);
    assert!(told.contains("s3://bucket/folder/ can be read, and holds no snapshot yet"), "{told}");
    assert_eq!(bucket.count("PUT"), 0, "{told}");
    bucket.fails(Fault::Refuses("403 Forbidden", "AccessDenied"));
    let found = run(&folder, &["doctor"], &settings(&folder, &bucket), b"");
    let told = String::from_utf8_lossy(&found.stdout);
    assert!(told.contains("s3://bucket/folder/ cannot be read: the bucket answers HTTP 403 (AccessDenied)"));
}
