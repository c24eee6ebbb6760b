//! A source waits for the queues that its messages can reach, and for no other.

use super::*;

/// Two floods: `flood` of 100 messages for a service that takes 10 s for each, `other` of 1000 for
/// a service that passes each on at once. `to` is the topic that the latter passes them on to.
fn two_floods(to: &str) -> String {
    format!(
        r#"
        [app]
        name = "wiring"
        [admin]
        listen = "off"
        [topics]
        relayed.external = "out"
        [services.flood]
        out = "items"
        config = {{ name = "{to}-slow", messages = 100 }}
        [services.relay]
        in = "items"
        out = "relayed"
        handler_timeout = "1m"
        queue.high_water = 10
        config.ms = 10000
        [services.other]
        use = "flood"
        out = "others"
        config = {{ name = "{to}-other", messages = 1000 }}
        [services.fast]
        use = "relay"
        in = "others"
        out = "{to}"
        queue.high_water = 50
        "#
    )
}

#[test]
fn a_source_does_not_wait_for_a_queue_that_its_messages_can_t_reach() {
    virtually(async {
        let app = TestApp::start(&two_floods("relayed"), &catalog()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(depth(&app).await.total() > 10, "the slow queue is full");
        assert_eq!(sent("relayed-other").taken_over, 1000);
        app.idle().await;
        assert_eq!(sent("relayed-slow").taken_over, 100);
    });
}

#[test]
fn a_source_waits_for_a_full_queue_behind_other_services() {
    virtually(async {
        let app = TestApp::start(&two_floods("items"), &catalog()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let early = sent("items-other").taken_over;
        assert!(early < 1000, "{early} were sent on the way to a full queue");
        app.idle().await;
        assert_eq!(sent("items-other").taken_over, 1000);
    });
}
