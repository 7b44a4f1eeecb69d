//! A web chat's answers: where they end, texts that are settled otherwise than they were said, markup.

use std::time::Duration;

use tokio::time::timeout;

use super::Right::{Fails, Text};
use super::{Case, chat, completion, web_chat};
use crate::helpers::spawn_before;
use crate::upstream::{Fake, Step};

pub const CASES: &[Case] = &[
    web_chat(
        "each line is the data of an event",
        "event: message\nid: 1\ndata: {\"result\":{\"conversation\":{\"conversationId\":\"c\"}}}\n\n: ping\n\ndata: {\"result\":{\"response\":{\"token\":\"Hello\"}}}\n\ndata: {\"result\":{\"response\":{\"token\":\" world\"}}}\n\ndata: {\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n\ndata: [DONE]\n\n",
        Text("Hello world"),
    ),
    web_chat(
        "events end with their own mark alone",
        "data: {\"result\":{\"response\":{\"token\":\"Hello\"}}}\n\ndata: [DONE]\n\n",
        Text("Hello"),
    ),
    web_chat(
        "events that are cut off before any mark",
        "data: {\"result\":{\"response\":{\"token\":\"Hello\"}}}\n\ndata: {\"result\":{\"response\":{\"token\":\" wo",
        Fails("upstream_truncated", ""),
    ),
    web_chat(
        "an event that is called an error has plain words",
        "data: {\"result\":{\"response\":{\"token\":\"Hello\"}}}\n\nevent: error\ndata: boom ctx\n\ndata: [DONE]\n\n",
        Fails("upstream_error", "boom ctx"),
    ),
    web_chat("events with nothing but their own mark", "data: [DONE]\n\n", Fails("upstream_empty", "")),
    web_chat(
        "numbers stand for yes, no and ids, and the message is in parts",
        "{\"result\":{\"conversation\":{\"conversationId\":7},\"response\":{\"token\":\"hm\",\"isThinking\":1,\"isSoftStop\":0,\"responseId\":12}}}\n{\"result\":{\"response\":{\"token\":\"Hello\",\"isThinking\":0,\"isSoftStop\":\"false\",\"responseId\":12}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"responseId\":12,\"partial\":0,\"message\":[{\"type\":\"text\",\"text\":\"Hello world\"}]}}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":1}}}\n",
        Text("Hello world"),
    ),
    web_chat(
        "a failure stands beside a result",
        "{\"result\":{\"response\":{\"token\":\"Hi\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"success\":false,\"message\":\"boom ctx\",\"result\":{}}\n",
        Fails("upstream_error", "boom ctx"),
    ),
    web_chat(
        "a response has streamErrors of its own",
        "{\"result\":{\"response\":{\"token\":\"Hi\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"streamErrors\":[{\"message\":\"boom ctx\"}]}}}\n",
        Fails("upstream_error", "boom ctx"),
    ),
    web_chat(
        "an error says that all is well",
        "{\"result\":{\"response\":{\"token\":\"Hi\",\"error\":{\"code\":0,\"message\":\"OK\"}}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hi"),
    ),
    web_chat(
        "a message comes twice, without the blanks of the tokens",
        "{\"result\":{\"response\":{\"token\":\"\\nHi\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\"}}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi\"}}}}\n",
        Text("\nHi"),
    ),
    web_chat(
        "messages have all so far, without a mark that the tokens had",
        "{\"result\":{\"response\":{\"token\":\"I search [1]. \"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"I search. \"}}}}\n{\"result\":{\"response\":{\"token\":\"It is 5.\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"I search. It is 5.\"}}}}\n",
        Text("I search [1]. It is 5."),
    ),
    web_chat(
        "tokens come after a soft stop, and after an early message too",
        "{\"result\":{\"response\":{\"token\":\"A\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"token\":\" B\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"A B\"}}}}\n{\"result\":{\"response\":{\"token\":\" C\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"A B C\"}}}}\n",
        Text("A B C"),
    ),
    web_chat(
        "the model stops thinking, and answers in two messages",
        "{\"result\":{\"response\":{\"token\":\"hm\",\"isThinking\":true,\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\"}}}}\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello world\"}}}}\n",
        Text("Hello world"),
    ),
    web_chat(
        "the answer is an image alone",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"\",\"generatedImageUrls\":[\"https://a.example/x.jpg\"]}}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("https://a.example/x.jpg"),
    ),
    web_chat(
        "an error stands there over several lines",
        "{\n \"error\": {\n  \"message\": \"boom ctx\"\n }\n}\n",
        Fails("upstream_error", "boom ctx"),
    ),
    web_chat(
        "the answer is plain text",
        "boom ctx: no account is left\n",
        Fails("upstream_invalid", "boom ctx"),
    ),
    web_chat(
        "the last message breaks off in words of its own",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello world, and mo",
        Fails("upstream_truncated", ""),
    ),
    web_chat(
        "the last message breaks off in words that were said",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hel",
        Text("Hello"),
    ),
    web_chat(
        "an early message is not marked as partial, and tokens follow",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hello world"),
    ),
    web_chat(
        "an early message is followed by a longer one",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello world\",\"responseId\":\"r\"}}}}\n",
        Text("Hello world"),
    ),
    web_chat(
        "each message has words of its own",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"result\":{\"response\":{\"token\":\" brave\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\" brave\",\"responseId\":\"r\"}}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\" world\",\"responseId\":\"r\"}}}}\n",
        Text("Hello brave world"),
    ),
    web_chat(
        "tokens follow a message, and then nothing says that they were the last",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n",
        Fails("upstream_truncated", ""),
    ),
    web_chat(
        "tokens follow a message, and one of them is broken",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"result\":{\"response\":{\"token\":\" brave\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Fails("upstream_invalid", ""),
    ),
    web_chat(
        "an overload is told after a message",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"error\":{\"message\":\"boom ctx\"}}\n",
        Fails("upstream_error", "boom ctx"),
    ),
    web_chat(
        "a title and a line that is none of the protocol follow the message",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n{\"result\":{\"title\":{\"newTitle\":\"T\"}}}\n[DONE]\n",
        Text("Hello"),
    ),
    web_chat(
        "the final message is a cut of what was said",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello\",\"responseId\":\"r\"}}}}\n",
        Text("Hello world"),
    ),
    web_chat(
        "the final message is in other words than those that were said",
        "{\"result\":{\"response\":{\"token\":\"Hello wurld\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello world\",\"responseId\":\"r\"}}}}\n",
        Text("Hello wurld"),
    ),
    web_chat(
        "the final message adds words, and blanks that were said are not in it",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello world \",\"responseId\":\"r\"}}}}\n",
        Text("Hello world "),
    ),
    web_chat(
        "half of a character is lost, and the message has all of it",
        "{\"result\":{\"response\":{\"token\":\"Hi \\ud83d\"}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hi \u{1f600}!\",\"responseId\":\"r\"}}}}\n",
        Text("Hi \u{1f600}!"),
    ),
    web_chat(
        "markup is what is spoken of",
        "{\"result\":{\"response\":{\"token\":\"Write `<xai:x>y</\"}}}\n{\"result\":{\"response\":{\"token\":\"xai:x>`:\\n```\\n<grok:render/>\\n``\"}}}\n{\"result\":{\"response\":{\"token\":\"`\\n<xai:x/>Bye\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Write `<xai:x>y</xai:x>`:\\n```\\n<grok:render/>\\n```\\n<xai:x/>Bye\",\"responseId\":\"r\"}}}}\n",
        Text("Write `<xai:x>y</xai:x>`:\n```\n<grok:render/>\n```\nBye"),
    ),
    web_chat(
        "a card does not end, and words follow it",
        "{\"result\":{\"response\":{\"token\":\"Hello <xai:x>\"}}}\n{\"result\":{\"response\":{\"token\":\" world\"}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hello <xai:x> world"),
    ),
    web_chat(
        "a key comes twice, a score is no number, and a token is one",
        "{\"result\":{\"response\":{\"token\":\"Hello \",\"score\":NaN,\"score\":-Infinity,\"isThinking\":false,\"isThinking\":false}}}\n{\"result\":{\"response\":{\"token\":7}}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Text("Hello 7"),
    ),
    web_chat(
        "a token stands outside of a result",
        "{\"result\":{\"response\":{\"token\":\"Hello\"}}}\n{\"response\":{\"token\":\" world\"}}\n{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        Fails("upstream_invalid", ""),
    ),
];

#[actix_web::test]
async fn the_usual_end_is_not_waited_for_where_the_connection_stays_open() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let lines = concat!(
        "{\"result\":{\"response\":{\"token\":\"Hello <xai:x/>\"}}}\n",
        "{\"result\":{\"response\":{\"token\":\"world <\"}}}\n",
        "{\"result\":{\"response\":{\"token\":\"\",\"isSoftStop\":true}}}\n",
        "{\"result\":{\"response\":{\"modelResponse\":{\"message\":\"Hello <xai:x/>world <\"}}}}\n",
    );
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    let fake = Fake::start(move |_| {
        vec![Step::Send(head.into()), Step::Send(chunk.clone().into_bytes()), Step::Hang]
    })
    .await;
    let app = spawn_before(&fake.url, "web-chat", &[]).await;
    let answers = async { [chat(&app).await, completion(&app, false).await, completion(&app, true).await] };
    for given in timeout(Duration::from_secs(10), answers).await.expect("no wait for more") {
        assert_eq!(given, Ok(("Hello world <".into(), Vec::new())));
    }
}
