//! A flooded service still stops and answers its control socket promptly.

use super::*;

/// Takes its time and sends each item back with one turn less, until no turn is left.
pub(super) struct Bouncer(Relay);

impl Service for Bouncer {
    const NAME: &'static str = "bouncer";
    type Config = RelayConfig;

    fn ports(_: &RelayConfig, ports: &mut Ports<Self>) {
        ports.input(&IN).output(&OUT);
    }

    async fn start(config: &RelayConfig, cx: &mut Context) -> Result<Self, Failure> {
        Relay::start(config, cx).await.map(Self)
    }
}

impl Handle<Item> for Bouncer {
    async fn handle(&mut self, item: Item, cx: &mut Context) -> Result<(), Failure> {
        match item.turns.checked_sub(1) {
            Some(turns) => self.0.handle(Item { turns, ..item }, cx).await,
            None => Ok(()),
        }
    }
}

#[test]
fn stopping_does_not_wait_for_the_queue_of_a_flooded_service() {
    const MESSAGES: u32 = 50_000;
    really(async {
        let manifest = flooded("control", 0, "high_water = 1000000").replace("config.ms = 10", "");
        let app = TestApp::start(&manifest, &catalog()).await;
        let batch = (0..MESSAGES).map(|n| {
            let mut envelope = Envelope::new("item", json!({ "n": n }).to_string());
            envelope.topic = "items".into();
            Outgoing::from(brickwork::Message::from(envelope))
        });
        let (done, confirmed) = Completion::channel();
        app.transport().publish(batch.collect(), done);
        confirmed.await.expect("it is taken over");
        // Waits until the first message was handled.
        while app.summary("relay").ok == 0 {
            tokio::task::yield_now().await;
        }
        let handled = app.summary("relay").ok;
        assert!(handled < u64::from(MESSAGES) / 2, "there is a flood");
        let report = app.stop().await;
        assert!(report.is_clean(), "{report:?}");
        // The messages of the mailbox and of one or two turns, out of all that waited.
        let left: u64 = report.left.iter().map(|(_, left)| left).sum();
        assert!(
            left + handled + 1_000 > u64::from(MESSAGES),
            "{handled} handled, {left} left"
        );
    });
}

/// Sends a command to the control socket of a running app. Returns the answer and the time that
/// it took.
fn ask(folder: &Path, verb: &str) -> (Value, Duration) {
    let began = Instant::now();
    let mut socket =
        UnixStream::connect(folder.join("data/control.sock")).expect("the socket has a listener");
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("a timeout");
    writeln!(socket, "{}", json!({ "verb": verb })).expect("it can be asked");
    let mut answer = String::new();
    let mut reader = BufReader::new(socket);
    reader.read_line(&mut answer).expect("it answers");
    let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
    (answer["ok"].clone(), began.elapsed())
}

#[test]
fn the_control_socket_answers_promptly_while_a_service_is_flooded() {
    /// Allows for a machine that is busy with other tests; behind the queued messages the answer
    /// would take minutes.
    const PROMPTLY: Duration = Duration::from_secs(2);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let manifest = r#"
        [app]
        name = "flooded"
        workers = 1
        log.level = "error"
        [admin]
        listen = "off"
        [services.fast]
        use = "file-in"
        out = "lines"
        config = { path = "lines.jsonl", repeat = 1000000 }
        [services.busy]
        use = "chaos"
        in = "lines"
        out = "done"
        config = { stall = 1.0, for = "1ms" }
        queue.high_water = 20000
        [topics.done]
        external = "out"
    "#;
    std::fs::write(folder.path().join("app.toml"), manifest).expect("it can be written");
    let lines = "{\"n\":1}\n".repeat(1_000);
    std::fs::write(folder.path().join("lines.jsonl"), lines).expect("it can be written");
    let mut command = Command::new(brickwork());
    command.args(["run", "app.toml"]).current_dir(folder.path());
    let mut process = Process::start(command, folder.path(), "it was just built");
    process.line(Duration::from_secs(60), |line| {
        line.contains("runs:").then_some(())
    });
    let busy = |state: &Value| {
        let services = state["services"].as_array().cloned().unwrap_or_default();
        let busy = services.into_iter().find(|s| s["service"] == "busy");
        busy.unwrap_or_default()
    };
    let ready = |state: &Value| busy(state)["inputs"][0]["queue"]["ready"].as_u64();
    let handled = |state: &Value| busy(state)["handled"]["ok"].as_u64();
    let full = until("the queue is full", Duration::from_secs(60), || {
        let (state, _) = ask(folder.path(), "state");
        match ready(&state) {
            Some(ready) if ready > 5_000 => Ok(state),
            seen => Err(format!("{seen:?} are ready")),
        }
    });
    for _ in 0..20 {
        let (state, took) = ask(folder.path(), "state");
        assert!(took < PROMPTLY, "the state took {took:?}");
        assert!(ready(&state) > Some(1_000), "the flood goes on: {state}");
    }
    until("it works meanwhile", Duration::from_secs(60), || {
        let (state, took) = ask(folder.path(), "state");
        assert!(took < PROMPTLY, "the state took {took:?}");
        match handled(&state) > handled(&full) {
            true => Ok(()),
            false => Err(format!("{:?} were handled", handled(&state))),
        }
    });
    let (_, took) = ask(folder.path(), "stop");
    assert!(took < PROMPTLY, "stopping was answered after {took:?}");
    assert_eq!(process.exit_code(Duration::from_secs(20)), Some(0));
}
