/*
 * Captures what labelled tasks send.
 *
 * A label is put on a task by the daemon, or at exec where a rule may name the program (exec.h), and
 * is inherited over fork and exec. A socket that a labelled
 * task makes or uses takes the label too, with the mark of its class: routing then brings its
 * packets to the device of this instance and from there to the daemon. The egress guard drops
 * whatever goes anywhere else, and notes for each flow whose it is.
 *
 * Everything here fails closed: what cannot be looked up is refused for labelled tasks, and nothing
 * is done to tasks and sockets without a label.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "kernel.h"
#include "maps.h"
#include "labels.h"
#include "exec.h"
#include "cgroups.h"
#include "sockets.h"
#include "addresses.h"
#include "connect.h"
#include "peers.h"
#include "packets.h"
#include "doors.h"
#include "relabel.h"
#include "sweep.h"
#include "mend.h"
#include "uses.h"

/* ---- the two ends of the pair ---- */

/* What comes back from the namespace carries a mark of ours, so that reverse path checks look into
 * our table and that what the kernel itself answers (fwmark_reflect) goes back inside. */
SEC("tcx/ingress")
int on_return(struct __sk_buff *skb)
{
	struct settings *set = get_settings();

	if (set)
		skb->mark = set->return_mark;
	return TCX_NEXT;
}

SEC("sk_lookup")
int deliver(struct bpf_sk_lookup *ctx)
{
	struct settings *set = get_settings();
	__u32 slot = (ctx->protocol == IPPROTO_UDP ? 2 : 0) + (ctx->family == AF_INET6 ? 1 : 0);
	struct bpf_sock *listener;
	long error;

	if (!set || ctx->ingress_ifindex != set->inner_device)
		return SK_PASS;
	listener = bpf_map_lookup_elem(&listeners, &slot);
	if (!listener) {
		count(COUNT_ORPHAN);
		return SK_DROP;
	}
	error = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	return error ? SK_DROP : SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
