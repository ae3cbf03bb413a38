/* Sockets take the label of the program that makes them. */
#pragma once

#include "labels.h"

/* A program that changes its user on exec (setuid) must not meet a proxy that a user chose. */
static __always_inline int is_beyond(struct class *class)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return class->flags & CLASS_PERSONAL && task->cred->euid.val != class->user;
}

/* The owner of a socket; none where it was given back. */
static __always_inline struct owner *owner_of(struct bpf_sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, 0, 0);

	return owner && owner->label.class ? owner : 0;
}

/* Whether a mark is that of a class, and not one that a program has chosen. */
static __always_inline int is_ours(__u32 mark)
{
	return mark && !(mark & OTHER_MARKS);
}

/* Raw, ping and the like: none of the hooks is told what most of them are used for. */
static __always_inline int is_other_kind(__u32 type, __u32 protocol)
{
	return type == SOCK_RAW || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP &&
				    protocol != IPPROTO_MPTCP);
}

SEC("cgroup/sock_create")
int on_create(struct bpf_sock *ctx)
{
	int other = is_other_kind(ctx->type, ctx->protocol);
	struct owner owner = {};
	struct class *class;
	struct label label;

	if (!is_captured(&label, &class))
		return 1;
	/* One that is undecided may turn out to be an unmanaged program that needs it; until then
	 * the guard is shut. */
	if (!class || is_beyond(class) || (other && label.class != UNDECIDED)) {
		count(COUNT_FORBIDDEN);
		return 0;
	}
	owner.label = label;
	owner.instance = class->instance;
	owner.pid = bpf_get_current_pid_tgid() >> 32;
	owner.uid = bpf_get_current_uid_gid();
	owner.cookie = bpf_get_socket_cookie(ctx);
	if (!bpf_sk_storage_get(&owners, ctx, &owner, BPF_SK_STORAGE_GET_F_CREATE))
		return 0;
	/* No hook would give the mark back. */
	if (!other)
		ctx->mark = class->mark;
	return 1;
}

SEC("cgroup/sock_release")
int on_release(struct bpf_sock *ctx)
{
	struct owner *owner;
	struct event *event;

	if (ctx->protocol != IPPROTO_UDP)
		return 1;
	owner = owner_of(ctx);
	if (!owner)
		return 1;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 1;
	event->kind = EVENT_SOCKET_CLOSED;
	event->process = owner->pid;
	event->cookie = owner->cookie;
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/* Options that lead packets past the mark's route: the call succeeds and does nothing. Those that
 * adopt() can undo are let through while it is not known whether the program is unmanaged. */
SEC("cgroup/setsockopt")
int on_setsockopt(struct bpf_sockopt *ctx)
{
	int undone = ctx->level == SOL_SOCKET &&
		     (ctx->optname == SO_BINDTODEVICE || ctx->optname == SO_MARK ||
		      ctx->optname == SO_BINDTOIFINDEX);
	int device = undone || (ctx->level == SOL_IP && ctx->optname == IP_UNICAST_IF) ||
		     (ctx->level == SOL_IPV6 && ctx->optname == IPV6_UNICAST_IF);
	struct class *class;
	struct label label;

	if (device && is_captured(&label, &class) && !(undone && label.class == UNDECIDED)) {
		count(COUNT_SWALLOWED);
		ctx->optlen = -1;
	} else if (ctx->optlen > 4096) {
		/* The kernel showed us one page only; zero means: use what the program gave. */
		ctx->optlen = 0;
	}
	return 1;
}
