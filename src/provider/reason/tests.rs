use super::*;
use serde_json::json;

#[test]
fn every_known_shape_is_a_failure_in_its_own_words() {
    for value in [
        json!({"error": {"message": "boom"}}),
        json!({"error": "boom"}),
        json!([{"error": {"code": 400, "message": "boom", "status": "INVALID_ARGUMENT"}}]),
        json!({"object": "error", "message": "boom", "type": "BadRequestError", "param": null, "code": 400}),
        json!({"detail": "boom"}),
        json!({"detail": {"msg": "boom"}}),
        json!({"message": {"detail": [{"msg": "boom"}]}}),
        json!({"code": "DataInspectionFailed", "message": "boom", "request_id": "r"}),
        json!({"code": 1001, "msg": "boom"}),
        json!({"error_code": 17, "error_msg": "boom"}),
        json!({"id": "x", "choices": null, "base_resp": {"status_code": 1008, "status_msg": "boom"}}),
        json!({"choices": [{"message": {}}], "base_resp": {"status_code": 1027, "status_msg": "boom"}}),
        json!({"success": false, "message": "boom"}),
        json!({"success": false, "errors": [{"code": 7003, "message": "boom"}], "result": null}),
        json!({"choices": null, "error_type": "BadRequestError", "error_message": "boom"}),
        json!({"error": {"message": "Provider returned error", "metadata": {"raw": "{\"error\":{\"message\":\"boom\"}}"}}}),
        json!({"error": {"message": "Provider returned error", "metadata": {"raw": "boom"}}}),
        json!({"error": "{\"message\":\"boom\"}"}),
        json!({"error": true, "message": "boom"}),
        json!({"error": {"error": {"message": "boom"}}}),
        json!({"error": {"message": {"detail": "boom"}}}),
        json!({"error": {"message": "Provider returned error", "metadata": {"raw": {"error": {"message": "boom"}}}}}),
        json!({"errMsg": "boom"}),
        json!({"errorCode": 1, "errorMessage": "boom"}),
        json!({"status": "error", "message": "boom"}),
        json!({"success": "false", "msg": "boom"}),
        json!({"header": {"code": 10013, "message": "boom", "sid": "x"}}),
        json!({"Response": {"Error": {"Code": "FailedOperation", "Message": "boom"}, "RequestId": "x"}}),
        json!({"choices": [{"index": 0, "delta": {"error": {"message": "boom"}}}]}),
        json!({"choices": [{"index": 0, "delta": {}}, {"index": 1, "error": {"message": "boom"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "x"}}], "success": false, "message": "boom"}),
        json!({"choices": [{"index": 0, "delta": {"content": "x"}}], "code": 500, "message": "boom"}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"message": "boom"}}]}),
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}),
    ] {
        let reason = Reason::in_answer(&value).unwrap_or_else(|| panic!("{value} is a failure"));
        assert_eq!(reason.message.as_deref(), Some("boom"), "{value}");
    }
    let parts =
        json!({"detail": [{"loc": ["body", "messages", 0], "msg": "field required", "type": "missing"}]});
    let reason = Reason::in_answer(&parts).expect("a failure");
    assert_eq!(reason.message.as_deref(), Some("body.messages.0: field required"));
}

#[test]
fn what_is_no_failure_is_none() {
    for value in [
        json!({"choices": [{"delta": {"content": "x"}}], "error": null}),
        json!({"choices": [{"delta": {"content": "x"}}], "error": {}}),
        json!({"choices": [{"delta": {"content": "x"}}], "error": {"code": 0, "message": "success"}}),
        json!({"choices": [{"delta": {"content": "x"}}], "error": "none"}),
        json!({"choices": [{"delta": {"content": "x"}}], "error": {"code": null, "message": ""}}),
        json!({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "code": 0, "message": "ok"}),
        json!({"choices": [{"delta": {}, "finish_reason": "length", "error": null}]}),
        json!({"code": 0, "msg": "success", "data": {}}),
        json!({"base_resp": {"status_code": 0, "status_msg": "success"}}),
        json!({"result": {"token": "x"}}),
        json!({"type": "message_start", "message": {"id": "m", "type": "message", "content": []}}),
        json!({"type": "ping"}),
        json!({"id": "r", "object": "chat.completion.chunk"}),
    ] {
        assert_eq!(Reason::in_answer(&value), None, "{value}");
    }
    let failed_job = json!({"id": "j", "object": "job", "status": "failed", "error": {"message": "x"}});
    for value in
        [json!({"detail": "x"}), json!({"code": 5, "message": "x"}), json!({"error": {}}), failed_job]
    {
        assert_eq!(Reason::in_relayed(&value), None, "{value}");
    }
}

#[test]
fn finish_reasons_that_are_none_are_failures() {
    for finish in BROKEN_OFF {
        let value = json!({"choices": [{"delta": {"content": "x"}, "finish_reason": finish}]});
        assert!(Reason::in_answer(&value).is_some_and(|reason| reason.has_code(&[finish])));
    }
}

#[test]
fn the_body_of_an_error_may_be_text_and_a_page_says_its_title_unless_it_is_a_login() {
    let of = |body: &str| Reason::in_error(body.as_bytes()).and_then(|reason| reason.message);
    assert_eq!(of(" model is required\n").as_deref(), Some("model is required"));
    assert_eq!(of("\u{feff}{\"msg\":\"boom\"}").as_deref(), Some("boom"));
    assert_eq!(of("\"boom\"").as_deref(), Some("boom"));
    assert_eq!(of("<html><Title>\n502 Bad Gateway </title>").as_deref(), Some("502 Bad Gateway"));
    assert_eq!(of("<html><title>Mirror</title><input type=\"password\">"), None);
    assert_eq!((of("<html>no</html>"), of(""), of("{}"), of("[]")), (None, None, None, None));
}
