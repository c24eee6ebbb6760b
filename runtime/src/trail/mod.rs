mod ring;
use crate::id::MessageId;
use crate::trace::TraceContext;
pub(crate) use ring::{Emitted, Step, Trail};
fn trace_of(id: &MessageId) -> u128 {
    TraceContext::root(id).trace_id
}
