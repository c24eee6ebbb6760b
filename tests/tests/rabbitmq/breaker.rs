//! Circuit breakers over RabbitMQ.

use brickwork_bridges::all;
use brickwork_tests::app::really;
use brickwork_tests::broker::Broker;
use brickwork_tests::outside::outage_on;

#[test]
fn during_an_outage_the_messages_wait_in_their_queue_and_lose_no_attempt() {
    really(async {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let url = Broker::shared().url();
        outage_on(folder, &all(), &url, "outage").await;
    });
}
