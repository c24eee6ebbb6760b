//! Start, restart and end of child processes.

use super::*;

#[test]
fn a_child_that_dies_idle_is_restarted_and_counted() {
    really(async {
        let (app, mut done) = start("", "").await;
        let first = pid_of(&app, &mut done).await;
        signal("KILL", first);
        eventually("its end is counted", || app.summary("child").restarts > 0).await;
        let second = pid_of(&app, &mut done).await;
        assert_ne!(first, second);
        assert_eq!(
            app.summary("child").attempts,
            2,
            "no attempt was spent on it"
        );
        app.stop().await;
    });
}

#[test]
fn a_program_that_cannot_run_spends_no_attempts() {
    really(async {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let program = folder.path().join("program");
        // Moved into place in one step: a file that is open for writing can't be executed.
        let install = |what: &str| {
            let new = folder.path().join("new");
            fs::write(&new, format!("#!/bin/sh\n{what}\n")).expect("it can be written");
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
            fs::rename(&new, &program).expect("it can be moved");
        };
        install("exit 3");
        let (dir, script) = (folder.path().display(), script());
        let command = format!("\"./program\", \"{}\"", script.display());
        let manifest = manifest("", &format!("dir = '{dir}'"))
            .replace(&format!("\"node\", \"{}\"", script.display()), &command);
        let app = TestApp::start(&manifest, &brickwork_actors::catalog()).await;
        let mut done = app.probe("done").await;
        let mut letters = app.dead_letters("child").await;
        for n in 0..40 {
            app.send("acts", json!({"act": "tell", "n": n})).await;
        }
        // Long enough for many attempts, if attempts were counted.
        assert!(letters.within(Duration::from_secs(4)).await.is_none());
        install("exec node \"$1\"");
        let mut spent = 0;
        for _ in 0..40 {
            spent += next_json(&mut done).await["attempt"]
                .as_u64()
                .expect("a number")
                - 1;
        }
        // The first crash is ambiguous if the message was alone with the child.
        assert!(spent <= 1, "{spent} attempts were spent");
        app.stop().await;
    });
}

#[test]
fn a_missing_program_is_named_and_the_app_is_not_ready() {
    really(async {
        let manifest = manifest("", "").replace("\"node\"", "\"/no/such/program\"");
        let app = TestApp::start(&manifest, &brickwork_actors::catalog()).await;
        let mut letters = app.dead_letters("child").await;
        app.send("acts", json!({"act": "pid"})).await;
        assert!(letters.within(Duration::from_millis(500)).await.is_none());
        // In the end the service is isolated for a while and reports the reason.
        let why = "can't start /no/such/program in";
        let reasons = || app.app.not_ready().join("\n");
        eventually("the app says why it isn't ready", || {
            reasons().contains(why)
        })
        .await;
        app.stop().await;
    });
}

#[test]
fn each_instance_has_its_own_child() {
    really(async {
        let (app, mut done) = start("instances = 3", "in_flight = 2").await;
        let mut pids = BTreeSet::new();
        for n in 0..6 {
            app.send("acts", json!({"act": "wait", "ms": 300, "n": n}))
                .await;
        }
        for _ in 0..6 {
            pids.insert(next_json(&mut done).await["pid"].as_u64());
        }
        assert_eq!(pids.len(), 3);
        app.stop().await;
    });
}

#[test]
fn stopping_closes_stdin_and_waits_for_the_child() {
    really(async {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let farewell = folder.path().join("farewell");
        let config = format!("env = {{ FAREWELL = '{}' }}", farewell.display());
        let (app, mut done) = start("", &config).await;
        let child = pid_of(&app, &mut done).await;
        // Messages in flight are finished first.
        let mark = folder.path().join("mark");
        let act = json!({"act": "wait", "ms": 500, "n": 7, "mark": mark});
        app.send("acts", act).await;
        eventually("the child has it", || mark.exists()).await;
        let (report, finished) = tokio::join!(app.stop(), next_json(&mut done));
        assert!(report.is_clean());
        assert_eq!(finished["n"], 7);
        assert!(!lives(child));
        assert_eq!(
            fs::read_to_string(farewell).expect("it was written"),
            "stdin ended"
        );
    });
}

#[test]
fn stopping_kills_the_process_group_of_a_child_that_ignores_it() {
    for stubborn in [false, true] {
        really(async {
            let env = if stubborn {
                "env.STUBBORN = 'yes-it-is'"
            } else {
                ""
            };
            let config = format!("stop_timeout = '600ms'\n{env}");
            let (app, mut done) = start("", &config).await;
            app.send("acts", json!({"act": "fork"})).await;
            let told = next_json(&mut done).await;
            let pids = ["pid", "grandchild"].map(|name| told[name].as_u64().expect("a pid"));
            assert!(pids.iter().all(|pid| lives(*pid)));
            assert!(app.stop().await.is_clean());
            for pid in pids {
                is_gone(pid);
            }
        });
    }
}

#[test]
fn processes_started_by_a_killed_child_are_killed_too() {
    really(async {
        let (app, mut done) = start("", "").await;
        app.send("acts", json!({"act": "fork"})).await;
        let told = next_json(&mut done).await;
        signal("KILL", told["pid"].as_u64().expect("a pid"));
        let grandchild = told["grandchild"].as_u64().expect("a pid");
        eventually("the grandchild is gone", || !lives(grandchild)).await;
        app.stop().await;
    });
}

#[test]
fn dropping_the_app_leaves_no_orphan_processes() {
    let pids = really(async {
        let (app, mut done) = start("", "env.STUBBORN = 'yes-it-is'").await;
        app.send("acts", json!({"act": "fork"})).await;
        let told = next_json(&mut done).await;
        drop(app);
        ["pid", "grandchild"].map(|name| told[name].as_u64().expect("a pid"))
    });
    for pid in pids {
        is_gone(pid);
    }
}
