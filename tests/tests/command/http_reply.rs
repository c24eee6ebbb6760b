//! `http-in` with `reply = true`: the caller gets the reply of the services.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use brickwork::prelude::*;
use brickwork_tests::app::{TestApp, really};
use brickwork_tests::http::{self, Response};
use brickwork_tests::process::{Process, free_address, until};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const PATIENCE: Duration = Duration::from_secs(30);

/// A request; `do` selects the behaviour of the service.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Question {
    n: u64,
    #[serde(default)]
    r#do: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Reply {
    twice: u64,
    id: String,
}

const QUESTIONS: Input<Question, Reply> = Input::new("questions");

thread_local! {
    /// Counts questions that wait. Each test runs on one thread.
    static IN_HAND: Rc<Semaphore> = Rc::new(Semaphore::new(0));
    static GO_ON: Rc<Semaphore> = Rc::new(Semaphore::new(0));
}

/// Doubles a number, fails for good, waits for a signal, or never ends.
struct Doubler;

impl Service for Doubler {
    const NAME: &'static str = "doubler";
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        ports.input(&QUESTIONS);
    }

    async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self)
    }
}

impl Handle<Question, Reply> for Doubler {
    async fn handle(&mut self, question: Question, cx: &mut Context) -> Result<Reply, Failure> {
        match question.r#do.as_str() {
            "fail" => return Err(Failure::reject("an inner matter")),
            "stall" => std::future::pending().await,
            "wait" => {
                IN_HAND.with(Rc::clone).add_permits(1);
                GO_ON.with(Rc::clone).acquire().await?.forget();
            }
            _ => {}
        }
        let id = cx
            .message()
            .expect("a message is being handled")
            .id
            .to_string();
        let twice = question.n * 2;
        Ok(Reply { twice, id })
    }
}

async fn start(config: &str) -> (TestApp, SocketAddr) {
    let address = free_address();
    let manifest = format!(
        r#"
        [app]
        name = "ask"
        transport = "memory:"
        [admin]
        listen = "off"
        [services.front]
        use = "http-in"
        out = "questions"
        [services.front.config]
        listen = "{address}"
        reply = true
        {config}
        [services.doubler]
        in = "questions"
        instances = 4
        retry.attempts = 1
        "#
    );
    let catalog = brickwork_actors::catalog().with::<Doubler>();
    (TestApp::start(&manifest, &catalog).await, address)
}

/// Sends a request from another thread, since this one runs the server.
async fn ask(address: SocketAddr, id: &'static str, question: Value) -> Response {
    let ask = move || {
        let headers = [("Content-Type", "application/json"), ("X-Id", id)];
        let body = question.to_string();
        until("it listens", PATIENCE, || {
            http::post(address, "/", &headers, body.as_bytes()).map_err(|error| error.to_string())
        })
    };
    tokio::task::spawn_blocking(ask).await.expect("no panic")
}

/// Waits until the service has a waiting question.
async fn is_in_hand() {
    let in_flight = IN_HAND.with(Rc::clone);
    in_flight.acquire().await.expect("it is open").forget();
}

#[test]
fn the_caller_gets_the_reply_of_the_service() {
    really(async {
        let (app, address) = start("id_header = \"X-Id\"").await;
        let asks = (0..20).map(|n| ask(address, "", json!({"n": n})));
        // A refused request has no id: its header is empty.
        for answer in futures_util::future::join_all(asks).await {
            assert_eq!(answer.code, 400, "{}", answer.body);
        }
        let answer = ask(address, "order-17", json!({"n": 21})).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json(), json!({"twice": 42, "id": "order-17"}));
        app.stop().await;
    });
}

#[test]
fn many_callers_each_get_their_own_reply() {
    really(async {
        let (app, address) = start("").await;
        let asks = (0..50u64).map(|n| async move {
            let answer = ask(address, "", json!({"n": n})).await;
            (n, answer)
        });
        for (n, answer) in futures_util::future::join_all(asks).await {
            assert_eq!((answer.code, &answer.json()["twice"]), (200, &json!(2 * n)));
        }
        app.stop().await;
    });
}

#[test]
fn a_dead_lettered_request_is_502_without_internal_details() {
    really(async {
        let (app, address) = start("").await;
        let answer = ask(address, "", json!({"n": 1, "do": "fail"})).await;
        assert_eq!(answer.code, 502, "{}", answer.body);
        assert!(!answer.body.contains("inner"), "{}", answer.body);
        let answer = ask(address, "", json!({"what": "is this"})).await;
        assert_eq!(answer.code, 502, "{}", answer.body);
        app.stop().await;
    });
}

#[test]
fn a_request_past_its_deadline_is_504_and_one_too_many_is_503() {
    really(async {
        let (app, address) = start("reply_timeout = \"500ms\"\nin_flight = 2").await;
        let stall = || ask(address, "", json!({"n": 1, "do": "stall"}));
        let answers = futures_util::future::join_all([stall(), stall(), stall()]).await;
        let mut codes: Vec<u16> = answers.iter().map(|answer| answer.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, [503, 504, 504]);
        let busy = answers.iter().find(|answer| answer.code == 503);
        assert_eq!(busy.and_then(|busy| busy.header("retry-after")), Some("5"));
        // The slots are free again, and so is the service whose caller has left.
        let answer = ask(address, "", json!({"n": 4})).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
        app.stop().await;
    });
}

#[test]
fn a_duplicate_id_does_not_take_the_reply_of_the_first_caller() {
    really(async {
        let (app, address) = start("id_header = \"X-Id\"").await;
        let first = tokio::task::spawn_local(ask(address, "same", json!({"n": 1, "do": "wait"})));
        is_in_hand().await;
        let second = ask(address, "same", json!({"n": 2})).await;
        assert_eq!(second.code, 502, "{}", second.body);
        GO_ON.with(Rc::clone).add_permits(1);
        let first = first.await.expect("no panic");
        assert_eq!((first.code, &first.json()["twice"]), (200, &json!(2)));
        let again = ask(address, "same", json!({"n": 2})).await;
        assert_eq!((again.code, &again.json()["twice"]), (200, &json!(4)));
        app.stop().await;
    });
}

#[test]
fn a_waiting_caller_gets_its_reply_during_the_stop() {
    really(async {
        let (app, address) = start("").await;
        let asked = tokio::task::spawn_local(ask(address, "", json!({"n": 3, "do": "wait"})));
        is_in_hand().await;
        let go_on = async {
            // The app receives the stop first.
            tokio::task::yield_now().await;
            GO_ON.with(Rc::clone).add_permits(1);
        };
        tokio::join!(app.stop(), go_on);
        let answer = asked.await.expect("no panic");
        assert_eq!((answer.code, &answer.json()["twice"]), (200, &json!(6)));
    });
}

#[test]
fn a_caller_without_a_reply_at_the_end_of_the_stop_gets_503() {
    really(async {
        let (app, address) = start("reply_timeout = \"60s\"").await;
        let asked = tokio::task::spawn_local(ask(address, "", json!({"n": 3, "do": "wait"})));
        is_in_hand().await;
        app.stop().await;
        let answer = asked.await.expect("the connection is not cut");
        assert_eq!(answer.code, 503, "{}", answer.body);
        assert!(answer.body.contains("stops"), "{}", answer.body);
    });
}

#[test]
fn a_child_program_and_a_map_reply_to_the_caller() {
    const CHILD: &str = "import sys, json\nfor line in sys.stdin:\n    m = json.loads(line)\n    \
        answer = {'id': m['id'], 'emit': [{'port': 'out', 'msg': {'challenge': m['msg']['n']}}]}\n    \
        if m['msg']['n'] == 2: answer['reply'] = {'own': True}\n    \
        print(json.dumps(answer), flush=True)\n";
    for (service, expected) in [
        (
            "use = \"process\"\nconfig.command = [\"python3\", \"child.py\"]",
            [json!({"challenge": 1}), json!({"own": true})],
        ),
        (
            "use = \"map\"\nconfig.to.n = \"msg.n * 10\"",
            [json!({"n": 10}), json!({"n": 20})],
        ),
    ] {
        let (folder, address) = (tempfile::tempdir().expect("a folder"), free_address());
        let manifest = format!(
            "[app]\nname = \"ask\"\n[admin]\nlisten = \"off\"\n[services.front]\n\
             use = \"http-in\"\nout = \"questions\"\n\
             config = {{ listen = \"{address}\", reply = true }}\n[services.answers]\n\
             in = \"questions\"\nout = \"asked\"\n{service}\n\
             [services.keep]\nuse = \"file-out\"\nin = \"asked\"\nconfig.path = \"asked.jsonl\"\n"
        );
        std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
        std::fs::write(folder.path().join("child.py"), CHILD).expect("it can be written");
        let mut command = std::process::Command::new(brickwork_tests::binary::brickwork());
        command.args(["run", "app.toml"]).current_dir(folder.path());
        let _process = Process::start(command, folder.path(), "it was just built");
        for (n, expected) in (1..).zip(expected) {
            let body = json!({ "n": n }).to_string();
            let answer = until("it listens", PATIENCE, || {
                let headers = [("Content-Type", "application/json")];
                let answer = http::post(address, "/", &headers, body.as_bytes());
                answer.map_err(|error| error.to_string())
            });
            assert_eq!(answer.code, 200, "{}", answer.body);
            assert_eq!(answer.json(), expected);
            assert!(answer.header("x-message-id").is_some(), "{answer:?}");
        }
        let kept = || std::fs::read_to_string(folder.path().join("asked.jsonl"));
        until("both are emitted, too", PATIENCE, || match kept() {
            Ok(text) if text.lines().count() == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}
