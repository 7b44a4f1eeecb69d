use super::*;

fn needs(method: &str, path: &str, body: &str) -> Needs {
    let path: Vec<String> = path.split('/').map(String::from).collect();
    of_request(method, &path, body.as_bytes(), false).expect("JSON").0
}

#[test]
fn what_is_forgotten_afterwards_is_open_and_what_the_account_keeps_is_not() {
    for (method, path) in [
        ("POST", "embeddings"),
        ("POST", "responses"),
        ("POST", "images/generations"),
        ("POST", "audio/speech"),
        ("GET", "models/a"),
        ("POST", "messages"),
    ] {
        assert!(needs(method, path, "{}").paths.is_empty(), "{method} {path}");
    }
    for (method, path) in [
        ("GET", "files"),
        ("DELETE", "files/file-1"),
        ("DELETE", "models/ft:a"),
        ("GET", "embeddings"),
        ("DELETE", "images/1"),
        ("GET", "organization/admin_api_keys"),
        ("GET", "imagesx"),
        ("GET", "chat/completions/chatcmpl-1"),
    ] {
        assert_eq!(needs(method, path, "").paths, [path], "{method} {path}");
    }
    for (method, path) in [
        ("GET", "responses/resp_1/input_items"),
        ("DELETE", "responses/resp_1"),
        ("POST", "responses/resp_1/cancel"),
    ] {
        let needs = needs(method, path, "");
        assert_eq!((needs.objects, needs.paths), (vec!["resp_1".to_string()], vec![]), "{method} {path}");
    }
}

#[test]
fn a_model_is_named_once_and_tools_name_theirs() {
    let request =
        |body: &str| of_request("POST", &["responses".into()], body.as_bytes(), false).expect("JSON");
    for (body, others) in [
        (r#"{"model":"a"}"#, false),
        (r#"{"model":"a","model":null}"#, true),
        (r#"{"model":"","model":"a"}"#, true),
        (r#"{"model":"a","Model":null}"#, true),
        (r#"{"model":"a","fallback_models":["b"]}"#, true),
    ] {
        assert_eq!(request(body).0.has_other_models, others, "{body}");
    }
    let body = r#"{"tools":[{"type":"image_generation","model":"b"}],"metadata":{"model":"c"},"model":"a"}"#;
    let (needs, model) = request(body);
    assert_eq!((needs.models_of_tools, model), (vec!["b".to_string()], Some("a".to_string())));
    for (value, is_background) in [(" : true", true), (":1", true), (":false", false), (": null", false)] {
        assert_eq!(request(&format!("{{\"background\"{value}}}")).0.is_background, is_background, "{value}");
    }
    assert!(!request(r#"{"input":[{"background":true}]}"#).0.is_background);
}

#[test]
fn ids_in_a_body_need_what_they_name() {
    for (body, paths) in [
        (r#"{"conversation":"conv_1"}"#, vec!["conversations"]),
        (r#"{"conversation":{"id":"conv_1"}}"#, vec!["conversations"]),
        (r#"{"conversation":null,"prompt":{"id":"pmpt_1"}}"#, vec!["prompts"]),
        (r#"{"input":[{"content":[{"type":"input_file","file_id":"file-1"}]}]}"#, vec!["files"]),
        (r#"{"input":[{"content":[{"file\u005fid":"file-1"}]}]}"#, vec!["files"]),
        (r#"{"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]}"#, vec!["vector_stores"]),
        (r#"{"tools":[{"type":"code_interpreter","container":"cntr_1"}]}"#, vec!["containers"]),
        (r#"{"tools":[{"type":"code_interpreter","container":{"type":"auto"}}]}"#, vec![]),
        (r#"{"input":"what is a file_id? conversation"}"#, vec![]),
        // The description of a tool that has such a parameter.
        (r#"{"tools":[{"parameters":{"properties":{"file_id":{"type":"string"}}}}]}"#, vec![]),
    ] {
        let seen = needs("POST", "responses", body);
        let seen: Vec<_> = seen.paths.iter().map(String::as_str).collect();
        assert_eq!(seen, paths, "{body}");
    }
    let goes_on = needs("POST", "responses", r#"{"previous_response_id":"resp_9"}"#);
    assert_eq!((goes_on.objects, goes_on.makes_object), (vec!["resp_9".to_string()], true));
    assert_eq!(of_chat(br#"{"container":"container_1"}"#).paths, ["containers"]);
    let chat = of_chat(br#"{"messages":[{"content":[{"file":{"file_id":"f"}}]}],"prompt":"x"}"#);
    assert_eq!(chat.paths, ["files"]);
    let chat = of_chat(br#"{"previous_response_id":"resp_1","conversation":{"id":"conv_1"}}"#);
    assert_eq!((chat.objects, chat.paths), (vec!["resp_1".to_string()], vec!["conversations".to_string()]));
    assert!(of_chat(br#"{"prompt":{"id":"x"},"tool_call_id":"c"}"#).paths.is_empty());
}

#[test]
fn an_input_that_refers_to_a_part_of_an_answer_needs_its_maker() {
    for (part, ids) in [
        (r#"{"type":"item_reference","id":"msg_1"}"#, vec!["msg_1"]),
        (r#"{"id":"msg_1"}"#, vec!["msg_1"]),
        (r#"{"id":"a","type":"message","Type":"item_reference","ID":"b"}"#, vec!["a", "b"]),
        (r#"{"type":"item\u005freference","content":"x","id":"msg_1"}"#, vec!["msg_1"]),
        (r#"{"type":"image_generation_call","id":"ig_1"}"#, vec!["ig_1"]),
        (r#"{"type":"reasoning","id":"rs_1","summary":[]}"#, vec!["rs_1"]),
        (r#"{"type":"reasoning","id":"rs_1","encrypted_content":"x"}"#, vec![]),
        (
            r#"{"type":"reasoning","id":"rs_1","encrypted_content":"x","encrypted_content":null}"#,
            vec!["rs_1"],
        ),
        // A part of an earlier answer with all that is in it.
        (
            r#"{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"x"}]}"#,
            vec![],
        ),
        (r#"{"role":"user","id":"msg_1","content":"x"}"#, vec![]),
        (r#"{"role":"user","content":[{"type":"item_reference","id":"msg_1"}]}"#, vec![]),
    ] {
        let seen = needs("POST", "responses", &format!(r#"{{"input":[{part}]}}"#));
        assert_eq!(seen.objects, ids, "{part}");
        assert!(needs("POST", "embeddings", &format!(r#"{{"input":[{part}]}}"#)).objects.is_empty());
    }
    let with_file = r#"{"input":[{"type":"x","file_id":"f"}]}"#;
    assert_eq!(needs("POST", "responses", with_file).paths, ["files"]);
}

#[test]
fn what_any_reader_of_the_body_would_find_is_found() {
    for body in [
        r#"{"previous_response_id":1,"previous_response_id":"resp_9"}"#,
        r#"{"previous_response_id":"resp_9","previous_response_id":null}"#,
        r#"{"x":"\ud800","previous_response_id":"resp_9"}"#,
        r#"{"x":1e999,"previous_response_id":"resp_9"}"#,
        r#"{"x":"\"}","Previous_Response_ID":"resp_9"}"#,
        r#"{"previou\u017f_response_id":"resp\u005f9"}"#,
        r#"{"previous_response_id":["resp_9"]}"#,
    ] {
        assert_eq!(needs("POST", "responses", body).objects, ["resp_9"], "{body}");
    }
    assert_eq!(of_chat(r#"{"x":"\ud800","FILE_ID":"f"}"#.as_bytes()).paths, ["files"]);
    assert!(of_chat(r#"{"\"file_id":"f","file_id":"","x":["file_id","f"]}"#.as_bytes()).paths.is_empty());
    let path = ["responses".to_string()];
    let utf16: Vec<u8> = r#"{"a":1}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let nested = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for body in [&b"{\"x\":NaN}"[..], b"/**/{}", b"\xef\xbb\xbf{}", b"{}{}", &utf16, nested.as_bytes()] {
        assert!(of_request("POST", &path, body, false).is_err(), "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn the_model_is_what_any_reader_of_the_body_would_take() {
    let path = ["embeddings".to_string()];
    let model = |body: &str| of_request("POST", &path, body.as_bytes(), false).expect("JSON").1;
    assert_eq!(model(r#"{"model":"a","input":{"model":"b"}}"#).as_deref(), Some("a"));
    for body in [
        r#"{"input":"model"}"#,
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","Model":"b"}"#,
        r#"{"MODEL":"b"}"#,
        r#"{"model":"a","models":["b"]}"#,
    ] {
        assert_eq!(model(body), None, "{body}");
    }
    let part =
        |head: &str, value: &str| format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
    let path = ["images".to_string(), "edits".to_string()];
    let form = |parts: &[String]| of_request("POST", &path, parts.concat().as_bytes(), true).expect("a form");
    let good = part("name=\"model\"", "a");
    assert_eq!(form(&[good.clone(), part("name=\"file\"; filename=\"b\"", "x")]).1.as_deref(), Some("a"));
    for head in
        ["name=model", "name=\"model\"", "x=y;\r\n Name = Model", "name=\"mo\\del\"", "name*=utf-8''mod%65l"]
    {
        assert_eq!(form(&[good.clone(), part(head, "b")]).1, None, "{head}");
    }
    for head in ["name=\"image[0][file_id]\"", "name=file_id", "name=\"File_ID\""] {
        assert_eq!(form(&[part(head, "file-1")]).0.paths, ["files"], "{head}");
    }
    assert_eq!(form(&[part("name=image", r#" [{"File_ID":"f"}]"#)]).0.paths, ["files"]);
    assert_eq!(form(&[part("name=previous_response_id", "resp_1")]).0.objects, ["resp_1"]);
    assert_eq!(form(&[part("name=conversation", "conv_1")]).0.paths, ["conversations"]);
    assert!(form(&[part("name=prompt", "a container with a file_id")]).0.paths.is_empty());
    let input = part("name=input", r#"[{"type":"item_reference","id":"msg_1"}]"#);
    let of_answer = of_request("POST", &["responses".to_string()], input.as_bytes(), true).expect("a form");
    assert_eq!(of_answer.0.objects, ["msg_1"]);
}
