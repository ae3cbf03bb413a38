/*
 * Doors of name resolution besides port 53: Unix sockets behind which somebody else asks for a name
 * (Linux 6.7). Closed to captured programs, so that the C library asks on port 53.
 *
 * A door is known by what the path means, however it is spelled. Links and mounts of a program's own
 * are not followed.
 */
#pragma once

#include "labels.h"

#define UNIX_PATH 108
#define NAME_SIZE 24
#define CLIMBS 8

struct route {
	char path[UNIX_PATH + 4];
	__u8 start[64]; /* of each component that is left of the path */
	__u32 depth;	/* how many there are */
	__u32 up;	/* how often `..` leads above where the path begins */
	__u32 begin;
	__u32 absolute;
};

/* A directory: where it is in its file system, and where that is mounted. */
struct place {
	struct dentry *dentry;
	struct vfsmount *mount;
};

/* Looks at one character: a component ends with a slash, which becomes a zero, or with the path. */
static long split(__u64 at, struct route *route)
{
	__u32 begin = route->begin;
	__u32 size;
	char byte;

	if (at > UNIX_PATH || begin > UNIX_PATH)
		return 1;
	byte = route->path[at];
	if (byte && byte != '/')
		return 0;
	route->path[at] = 0;
	size = at - begin;
	route->begin = at + 1;
	if (size == 2 && route->path[begin] == '.' && route->path[begin + 1] == '.') {
		if (route->depth)
			route->depth--;
		else
			route->up++;
	} else if (size > 1 || (size == 1 && route->path[begin] != '.')) {
		route->start[route->depth & 63] = begin;
		route->depth++;
	}
	return !byte;
}

static __always_inline void read_component(struct route *route, __u32 number, char *name)
{
	__u32 start = route->start[number & 63];

	bpf_probe_read_kernel_str(name, NAME_SIZE, route->path + start);
}

static __always_inline int begins_with(const char *name, const char *with, int size)
{
	for (int i = 0; i < size; i++)
		if (name[i] != with[i])
			return 0;
	return 1;
}

/* Of string literals: with the end, or up to there. */
#define IS(name, text) begins_with(name, text, sizeof(text))
#define BEGINS(name, text) begins_with(name, text, sizeof(text) - 1)

/* The directory of a descriptor of the running process. */
static __always_inline struct place place_of(__u32 descriptor)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct place place = {};
	struct file *file;

	if (descriptor >= BPF_CORE_READ(table, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), files + descriptor))
		return place;
	place.dentry = BPF_CORE_READ(file, f_path.dentry);
	place.mount = BPF_CORE_READ(file, f_path.mnt);
	return place;
}

static __always_inline __u32 to_number(const char *name)
{
	__u32 number = 0;

	for (int i = 0; i < 7 && name[i] >= '0' && name[i] <= '9'; i++)
		number = number * 10 + (name[i] - '0');
	return number;
}

/*
 * Where the path begins, and how many of its components lead there: the directory of the process,
 * its root, or what one of the links in /proc stands for.
 */
static __always_inline struct place beginning(struct route *route, __u32 *first)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct place root = { BPF_CORE_READ(task, fs, root.dentry),
			      BPF_CORE_READ(task, fs, root.mnt) };
	struct place pwd = { BPF_CORE_READ(task, fs, pwd.dentry),
			     BPF_CORE_READ(task, fs, pwd.mnt) };
	char name[NAME_SIZE] = {};
	__u32 link;

	*first = 0;
	if (!route->absolute)
		return pwd;
	read_component(route, 0, name);
	if (IS(name, "dev")) {
		link = 1;
	} else if (IS(name, "proc")) {
		read_component(route, 2, name);
		link = IS(name, "task") ? 4 : 2;
	} else {
		return root;
	}
	if (route->depth <= link)
		return root;
	read_component(route, link, name);
	if (IS(name, "root") || IS(name, "cwd")) {
		*first = link + 1;
		return IS(name, "root") ? root : pwd;
	}
	if (!IS(name, "fd") || route->depth <= link + 1)
		return root;
	*first = link + 2;
	read_component(route, link + 1, name);
	return place_of(to_number(name));
}

static __always_inline struct mount *to_mount(struct vfsmount *mount)
{
	return (void *)mount - bpf_core_field_offset(struct mount, mnt);
}

/* From the root of what is mounted to where that is mounted. */
static __always_inline void settle(struct place *place)
{
	struct dentry *dentry = place->dentry;
	struct mount *mount = to_mount(place->mount);

	for (int i = 0; i < 4 && BPF_CORE_READ(dentry, d_parent) == dentry; i++) {
		dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		mount = BPF_CORE_READ(mount, mnt_parent);
	}
	place->dentry = dentry;
	place->mount = &mount->mnt;
}

/* The name that is `back` before the last one. */
static __always_inline void read_name(struct route *route, struct place base, __u32 first,
				      __u32 back, char *name)
{
	__u32 left = route->depth - first;
	struct dentry *dentry;

	if (back < left) {
		read_component(route, route->depth - 1 - back, name);
		return;
	}
	back += route->up - left;
	settle(&base);
	dentry = base.dentry;
	for (int i = 0; i < CLIMBS && i < back; i++) {
		base.dentry = BPF_CORE_READ(dentry, d_parent);
		settle(&base);
		dentry = base.dentry;
	}
	bpf_probe_read_kernel_str(name, NAME_SIZE, BPF_CORE_READ(dentry, d_name.name));
}

/* Whether the running program is one that asks for names on the system bus and does nothing else
 * there. It may be told of neighbours where these are reached directly. */
static __always_inline int is_asker(int local)
{
	struct task_struct *task = bpf_get_current_task_btf();
	char name[NAME_SIZE] = {};

	bpf_probe_read_kernel_str(name, sizeof(name),
				  BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name));
	return IS(name, "resolvectl") || IS(name, "systemd-resolve") ||
	       (!local && (BEGINS(name, "avahi-resolve") || BEGINS(name, "avahi-browse")));
}

/* Whether a path leads to a door; to one of local names where `local` networks are not reached. */
static __always_inline int is_door(struct route *route, int local)
{
	char name[NAME_SIZE] = {};
	struct place base;
	__u32 first;
	int nscd;

	base = beginning(route, &first);
	if (first > route->depth)
		return 0;
	read_name(route, base, first, 0, name);
	/* Its answers, and what it tells of all questions. */
	if (BEGINS(name, "io.systemd.Resolve"))
		return 1;
	if (IS(name, "system_bus_socket"))
		return is_asker(local);
	if (!IS(name, "socket"))
		return 0;
	read_name(route, base, first, 1, name);
	nscd = IS(name, "nscd");
	if (!nscd && (local || !IS(name, "avahi-daemon")))
		return 0;
	/* Not one of a program's own, elsewhere. */
	read_name(route, base, first, 2, name);
	return IS(name, "run") || IS(name, "/");
}

SEC("cgroup/connect_unix")
int on_connect_unix(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern;
	struct route route = {};
	struct class *class;
	struct label label;
	int length;

	if (!is_captured(&label, &class))
		return 1;
	kern = bpf_cast_to_kern_ctx(ctx);
	/* Behind the family, sockaddr_un is the path; it need not end with a zero. */
	length = (int)kern->uaddrlen - 2;
	if (length <= 0 || length > UNIX_PATH)
		return 1;
	bpf_probe_read_kernel(route.path, length, kern->uaddr + 2);
	route.absolute = route.path[0] == '/';
	bpf_loop(UNIX_PATH + 1, split, &route, 0);
	if (!is_door(&route, class && class->flags & CLASS_MULTICAST))
		return 1;
	count(COUNT_DOOR_CLOSED);
	bpf_set_retval(-ECONNREFUSED);
	return 0;
}
