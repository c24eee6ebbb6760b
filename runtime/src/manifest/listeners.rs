//! Finds two listeners of one process with the same address: only one of them could start.

use std::net::SocketAddr;

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::table_reader::Section;
use crate::app::Plan;
use crate::service::Kind;

struct Listener {
    name: String,
    address: SocketAddr,
    place: Span,
}

/// Reports each listener whose address an earlier one has.
pub(super) fn check(top: &Section<'_>, plan: &Plan, out: &mut Problems) {
    let admin = plan.admin.map(|address| Listener {
        name: "the admin endpoint".to_owned(),
        address,
        place: top.place_at(&["admin", "listen"]),
    });
    let mut before: Vec<Listener> = admin.into_iter().collect();
    for service in plan.services.iter().filter(|service| service.runs_here) {
        let Kind::Source(source) = service.blueprint.role() else {
            continue;
        };
        let Some(address) = source.listens() else {
            continue;
        };
        let listener = Listener {
            name: format!("`{}`", service.label),
            address,
            place: top.place_at(&["services", &service.label, "config", "listen"]),
        };
        let other = before.iter().find(|other| collide(other.address, address));
        if let Some(other) = other {
            let message = format!(
                "{} can't listen on {address}: {} listens on {}",
                listener.name, other.name, other.address
            );
            let help = "give one of them another port".to_owned();
            out.add(codes::SAME_ADDRESS, listener.place, message, Some(help));
        }
        before.push(listener);
    }
}

/// Whether two listeners can't have these addresses. Port 0 is a free port.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let is_on_all = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || is_on_all)
}
