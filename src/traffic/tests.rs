use std::time::Duration;

use super::*;
use crate::domain::chat::Usage;
use crate::domain::error::{Error, Kind};

fn begin(traffic: &Arc<Traffic>, key: Option<&str>, is_post: bool) -> Arc<OpenCall> {
    let key = key.map(Arc::from);
    traffic.begin(Beginning { key: key.as_ref(), path: "/api/chat", is_post, request_id: "id".into() })
}

fn end() -> End<'static> {
    End {
        operation: Some("chat"),
        status: 200,
        upstream_status: Some(200),
        model: None,
        failure: None,
        is_left: false,
        total: Duration::from_secs(1),
        sent: 20,
    }
}

fn ask(traffic: &Arc<Traffic>, key: &str, model: &str) -> Arc<OpenCall> {
    let call = begin(traffic, Some(key), true);
    call.asks("chat", Some(model));
    call.put_to(&"https://mirror.example".into());
    call.begins(Duration::from_millis(200));
    call.costs(Usage::told(20, 100, None));
    call
}

#[test]
fn a_call_runs_until_nothing_works_for_it_any_more() {
    let traffic = Arc::<Traffic>::default();
    let call = ask(&traffic, "dify", "m");
    let goes_on = Arc::clone(&call);
    call.ends(end());
    drop(call);
    let (running, ended, count) = traffic.since(0);
    assert_eq!((running.len(), ended.len(), count), (1, 0, 0));
    goes_on.costs(Usage::told(20, 300, None));
    drop(goes_on);
    let (running, ended, count) = traffic.since(0);
    assert_eq!((running.len(), ended.len(), count), (0, 1, 1));
    assert_eq!(ended[0].usage, Some(Usage::told(20, 300, None)));
    assert!(traffic.since(1).1.is_empty());
}

#[test]
fn so_many_calls_are_kept_and_those_without_a_key_push_no_other_out() {
    let traffic = Arc::<Traffic>::default();
    for number in 0..CALLS_KEPT + 10 {
        ask(&traffic, "dify", &format!("m{number}")).ends(end());
    }
    for _ in 0..2 * REFUSED_KEPT {
        begin(&traffic, None, true).ends(end());
    }
    let (calls, _) = traffic.calls(0);
    assert_eq!(calls.len(), CALLS_KEPT + REFUSED_KEPT);
    assert!(calls.is_sorted_by_key(|(call, _)| std::cmp::Reverse(call.number)));
    assert_eq!(calls.last().expect("some").0.of.model, "m10");
}

#[test]
fn names_and_paths_that_a_caller_makes_up_are_cut() {
    let traffic = Arc::<Traffic>::default();
    let path = "/".repeat(10_000);
    let call = traffic.begin(Beginning { key: None, path: &path, is_post: true, request_id: "id".into() });
    call.asks("chat", Some(&"模".repeat(1000)));
    let call = call.call();
    assert!((190..=200).contains(&call.of.model.len()) && call.path.len() == 200, "{call:?}");
}

#[test]
fn questions_count_and_looks_do_not() {
    let traffic = Arc::<Traffic>::default();
    ask(&traffic, "dify", "m").ends(end());
    begin(&traffic, Some("dify"), false).ends(end());
    begin(&traffic, Some("dify"), true).ends(end());
    let failure = Failure::from(&Error::new(Kind::InvalidJson, "no JSON"));
    for is_post in [true, false] {
        let failed = End { failure: Some(("invalid_json", &failure)), status: 400, ..end() };
        begin(&traffic, None, is_post).ends(failed);
    }
    let slots = traffic.unkept();
    assert_eq!(slots.iter().map(|slot| slot.span).collect::<Vec<_>>(), [SHORT, HOUR]);
    for slot in slots {
        let mut counted: Vec<_> = slot.counts.iter().map(|(of, counts)| (&*of.code, counts.calls)).collect();
        counted.sort_unstable();
        assert_eq!(counted, [("", 1), ("invalid_json", 1)]);
    }
    assert!(traffic.unkept().is_empty(), "nothing has come since");
}

#[test]
fn hours_add_up_to_what_was_counted_also_when_they_could_not_be_kept_at_once() {
    let mut sums = Sums::default();
    let mut call = Call { asked: Some("chat"), ..Call::default() };
    // What a store would hold that takes each slot in the place of the same before.
    let mut kept = std::collections::HashMap::new();
    let start = 1000 * HOUR;
    for minute in 0..130 {
        call.of.model = format!("m{}", minute % 3);
        sums.count(&call, start + minute * 60_000);
        if minute % 7 == 0 {
            let slots = sums.take(start + minute * 60_000);
            match minute % 2 {
                0 => kept.extend(slots.into_iter().map(|slot| ((slot.span, slot.start), slot))),
                _ => sums.give_back(slots),
            }
        }
    }
    // A clock that is set back changes nothing that is kept.
    sums.count(&call, start);
    kept.extend(sums.take(start).into_iter().map(|slot| ((slot.span, slot.start), slot)));
    for span in [SHORT, HOUR] {
        let of_span = kept.values().filter(|slot| slot.span == span);
        let calls: u64 = of_span.flat_map(|slot| slot.counts.values()).map(|counts| counts.calls).sum();
        assert_eq!(calls, 131, "{span}");
    }
    assert_eq!(kept.keys().filter(|(span, _)| *span == HOUR).count(), 3);
}

#[test]
fn the_combinations_with_the_most_calls_are_kept_and_the_rest_together() {
    let mut sums = Sums::default();
    let start = 1000 * HOUR;
    for number in 0..600 {
        let mut call = Call { asked: Some("chat"), ..Call::default() };
        call.of.model = format!("m{number}");
        call.of.code = if number % 2 == 1 { "upstream_timeout".into() } else { "".into() };
        for _ in 0..if number < 10 { 3 } else { 1 } {
            sums.count(&call, start);
        }
    }
    let hour = sums.take(start).pop().expect("an hour");
    let kept = Slot::read(&hour.text()).expect("it is read");
    assert!((50..=52).contains(&kept.len()), "fifty, and the good and the failed ones of the rest");
    assert_eq!(kept.iter().map(|(_, counts)| counts.calls).sum::<u64>(), 620);
    let failed = kept.iter().filter(|(of, _)| !of.code.is_empty());
    assert_eq!(failed.map(|(_, counts)| counts.calls).sum::<u64>(), 310);
    for number in 0..10 {
        let name = format!("m{number}");
        let (of, counts) = kept.iter().find(|(of, _)| of.model == name).expect("it has a row of its own");
        assert_eq!(Some(counts), hour.counts.get(of));
        assert_eq!(counts.calls, 3);
    }
}
