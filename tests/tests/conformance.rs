//! Every law of the transport contract, on every transport.

use brickwork_bridges::all;
use brickwork_tests::broker::Broker;
use brickwork_tests::conformance::{self, Subject};

/// Makes each law a test of its own for each transport.
macro_rules! laws {
    ($transport:ident, $subject:expr, { $($group:ident: $($law:ident)*;)* }) => {
        mod $transport {
            use super::*;

            fn subject() -> Subject {
                $subject
            }

            $($(
                #[tokio::test]
                async fn $law() {
                    let law = async |subject: &Subject| conformance::$group::$law(subject).await;
                    conformance::check(subject(), stringify!($law), law).await;
                }
            )*)*
        }
    };
    ($($transport:ident: $subject:expr,)*) => {
        $(laws!($transport, $subject, {
            arriving:
                declaring_twice_changes_nothing
                a_message_arrives_as_it_was_sent
                every_queue_that_reads_a_topic_gets_a_copy
                consumers_of_a_queue_compete
                one_publishers_order_is_kept
                a_message_to_one_queue_reaches_only_that_one
                a_queue_that_was_not_declared_is_an_error
                a_topic_that_nobody_reads_takes_everything
                every_completion_comes_once_with_many_publishers;
            settling:
                an_acked_message_is_gone
                a_dropped_delivery_is_delivered_again
                a_requeued_message_keeps_its_attempt
                a_retry_keeps_the_message_as_it_was
                a_delivery_can_be_settled_on_another_thread
                a_dead_letter_is_kept_with_its_reason
                a_replayed_dead_letter_starts_at_attempt_one;
            waiting:
                a_retry_is_delivered_after_its_delay
                a_delayed_message_is_delivered_after_its_delay
                a_short_delay_overtakes_a_long_one
                a_delay_outlives_the_transport;
            asking:
                an_asker_gets_its_reply
                an_asker_times_out
                a_late_reply_is_dropped_and_counted
                a_dead_lettered_request_fails_its_asker
                a_reply_can_be_an_error
                a_request_is_answered_after_a_retry
                an_ack_without_a_reply_leaves_the_asker_waiting
                a_reply_to_no_request_is_an_ack
                asking_where_nobody_reads_fails_at_once;
            bounds:
                at_most_bound_deliveries_are_unsettled
                depth_counts_ready_unacked_and_delayed_messages
                publishing_never_waits_for_consumers
                pressure_rises_above_the_mark_and_clears_at_half;
            limits:
                a_limit_that_the_transport_cannot_keep_is_refused
                a_message_beyond_the_limit_is_dead_lettered
                a_full_queue_that_rejects_refuses_a_batch_whole
                a_batch_larger_than_the_limit_enters_a_queue_that_is_not_full
                the_limit_never_applies_to_confirmed_messages
                asking_a_full_queue_fails_at_once
                many_publishers_do_not_overfill_a_queue;
            finding:
                a_message_is_found_wherever_it_lies_and_nothing_is_changed
                an_incomplete_search_says_so
                a_message_of_a_stopped_transport_is_found;
            ending:
                a_stopped_consumer_requeues_its_prefetched_messages
                a_dropped_consumer_requeues_its_prefetched_messages
                a_dropped_take_loses_nothing
                flushing_waits_for_publications_and_settlements
                after_closing_everything_ends
                a_confirmed_message_outlives_the_transport
                a_message_in_flight_at_a_crash_is_delivered_again;
            lasting:
                an_attempt_outlives_the_transport
                a_dead_letter_outlives_the_transport
                a_crash_undoes_no_settlement_and_forgets_no_message
                a_long_backlog_outlives_the_transport_in_order;
            quarantine:
                suspects_are_tried_one_at_a_time_beside_normal_work
                with_keys_no_message_overtakes_a_suspect
                a_suspect_is_blamed_for_crashes_while_it_is_tried_alone
                a_requeued_suspect_is_not_blamed
                a_failed_suspect_is_retried_like_any_message
                a_suspect_waits_for_a_version_with_its_input
                a_suspect_that_asks_while_it_is_tried_alone_is_answered
                a_handler_that_asked_is_answered_before_a_suspect_is_tried_alone;
        });)*
    };
}

laws! {
    memory: Subject::new(all(), "memory:"),
    embedded: Subject::in_folder(all(), "embedded"),
    amqp: Subject::new(all(), Broker::shared().url()),
}
