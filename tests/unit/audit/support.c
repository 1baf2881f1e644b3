/* Helpers of this layer's tests. */
#include "unit/audit/support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

char support_dir[64];

void support_init(void)
{
	snprintf(support_dir, sizeof(support_dir), "%s", "/tmp/adit-audit-XXXXXX");
	cr_assert(mkdtemp(support_dir));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

void support_fini(void)
{
	if (*support_dir)
		nftw(support_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *support_path(const char *name)
{
	static char paths[4][SUPPORT_PATH_MAX];
	static int turn;
	char *path = paths[turn++ & 3];

	snprintf(path, SUPPORT_PATH_MAX, "%s/%s", support_dir, name);
	return path;
}

struct audit *support_audit(const struct audit_sys *sys)
{
	struct audit_config config = { .directory = support_dir, .node = "node1" };
	char error[512] = "";
	struct audit *audit = audit_new_on(&config, sys, error, sizeof(error));

	cr_assert(audit, "%s", error);
	return audit;
}

char *support_read(const char *path, size_t *n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *all = NULL;
	size_t size = 0;
	ssize_t got = 1;

	if (fd < 0)
		return NULL;
	for (*n = 0; got > 0; *n += (size_t)(got > 0 ? got : 0)) {
		if (size - *n < 2) {
			size = size ? size * 2 : 65536;
			all = realloc(all, size);
			cr_assert(all);
		}
		got = read(fd, all + *n, size - *n - 1);
	}
	close(fd);
	all[*n] = '\0';
	return all;
}

/* Calls fn for each record; every line must be one. */
static int each_record(const char *path, void (*fn)(const struct json_line *json, void *ctx), void *ctx)
{
	static struct json_line json;
	size_t n;
	char *all = support_read(path, &n), *line, *end;
	int count = 0;

	if (!all)
		return -1;
	for (line = all; line < all + n; line = end + 1) {
		end = memchr(line, '\n', (size_t)(all + n - line));
		cr_assert(end, "%s: the last line has no end: %s", path, line);
		cr_assert(json_line_read(&json, line, (size_t)(end + 1 - line)), "%s: %s: %.*s", path, json.wrong,
			  (int)(end - line), line);
		count++;
		if (fn)
			fn(&json, ctx);
	}
	free(all);
	return count;
}

int support_count(const char *path)
{
	return each_record(path, NULL, NULL);
}

struct search {
	const char *key, *value;
	bool found;
};

static void compare(const struct json_line *json, void *ctx)
{
	struct search *search = ctx;
	const char *value = json_get(json, search->key, NULL);

	search->found = search->found || (value && strcmp(value, search->value) == 0);
}

bool support_has(const char *path, const char *key, const char *value)
{
	struct search search = { key, value, false };

	each_record(path, compare, &search);
	return search.found;
}

static void collect(const struct json_line *json, void *ctx)
{
	struct support_ids *ids = ctx;

	cr_assert_lt(ids->count, (size_t)SUPPORT_RECORDS_MAX);
	snprintf(ids->id[ids->count++], AUDIT_ID_SIZE, "%s", json_get(json, "id", NULL));
}

void support_ids(const char *path, struct support_ids *ids)
{
	ids->count = 0;
	each_record(path, collect, ids);
}

void support_yield(void)
{
	nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
}

void support_done(void *ctx, enum reason verdict)
{
	struct support_waiter *waiter = ctx;

	atomic_store(&waiter->verdict, (int)verdict);
	atomic_fetch_add(&waiter->calls, 1);
}

struct audit_event support_event(enum audit_kind kind, const char *user, char id[static AUDIT_ID_SIZE])
{
	audit_id(id);
	return (struct audit_event){
		.kind = kind, .id = id, .user = user, .protocol = "http/1.1", .method = slice_of("CONNECT"),
		.target = slice_of("www.example.com:443"), .rule = "web", .status = kind == AUDIT_DENY ? 403 : 200,
		.reason = kind == AUDIT_DENY ? REASON_DENIED : REASON_OK
	};
}

enum reason support_submit(struct audit *audit, enum audit_kind kind, const char *user)
{
	struct support_waiter waiter = { 0, -1 };
	char id[AUDIT_ID_SIZE];
	struct audit_event event = support_event(kind, user, id);
	enum reason r = audit_submit(audit, &event, support_done, &waiter);

	if (r != REASON_OK)
		return r;
	support_until(atomic_load(&waiter.calls) > 0);
	cr_assert_eq(atomic_load(&waiter.calls), 1);
	return (enum reason)atomic_load(&waiter.verdict);
}

/* --- the kernel ----------------------------------------------------------------------------------------------- */

_Atomic long long support_room = SUPPORT_NO_LIMIT;
_Atomic int support_error = ENOSPC;
_Atomic bool support_trickle, support_no_cut, support_no_open, support_no_open_users, support_hang;
_Atomic uint64_t support_clock_ms;
_Atomic unsigned support_writes;

static int fake_open_at(int dir, const char *name, int flags, mode_t mode)
{
	if (atomic_load(&support_no_open) ||
	    (atomic_load(&support_no_open_users) && !(flags & O_DIRECTORY) && strcmp(name, "access.jsonl") != 0)) {
		errno = EACCES;
		return -1;
	}
	return openat(dir, name, flags, mode);
}

/* The first `most` bytes of a vector. */
static ssize_t write_part(int fd, const struct iovec *iov, int count, size_t most)
{
	ssize_t total = 0;

	for (int i = 0; i < count && most > 0; i++) {
		size_t n = iov[i].iov_len < most ? iov[i].iov_len : most;

		cr_assert_eq(write(fd, iov[i].iov_base, n), (ssize_t)n);
		total += (ssize_t)n;
		most -= n;
	}
	return total;
}

static ssize_t fake_write_vec(int fd, const struct iovec *iov, int count)
{
	size_t wanted = 0, room;
	unsigned turn = atomic_fetch_add(&support_writes, 1);

	while (atomic_load(&support_hang))
		support_yield();
	for (int i = 0; i < count; i++)
		wanted += iov[i].iov_len;
	if (atomic_load(&support_trickle)) {
		if (turn % 2 == 1) {
			errno = EINTR;
			return -1;
		}
		wanted = wanted < turn % 7 + 1 ? wanted : turn % 7 + 1;
	}
	if (atomic_load(&support_room) == SUPPORT_NO_LIMIT)
		return write_part(fd, iov, count, wanted);
	room = (size_t)atomic_load(&support_room);
	if (room == 0) {
		errno = atomic_load(&support_error);
		return -1;
	}
	wanted = wanted < room ? wanted : room;
	atomic_fetch_sub(&support_room, (long long)wanted);
	return write_part(fd, iov, count, wanted);
}

static int fake_truncate(int fd, off_t size)
{
	if (atomic_load(&support_no_cut)) {
		errno = EPERM;
		return -1;
	}
	return ftruncate(fd, size);
}

static uint64_t fake_now_ms(void)
{
	uint64_t now = atomic_load(&support_clock_ms);

	return now ? now : clock_mono_ms();
}

const struct audit_sys support_sys = {
	.open_at = fake_open_at, .write_vec = fake_write_vec, .truncate = fake_truncate, .now_ms = fake_now_ms, .stop_ms = 300
};
