/* What the files of this layer share, and what tests put in place of the kernel.
 *
 *   audit.c      the service: audit_submit formats and queues, in any thread
 *   strangers.c  which refusals of strangers are written, which only counted
 *   writer.c     the thread: takes all that is queued, writes, keeps what failed, calls done
 *   directory.c  which record goes into which file
 *   appender.c   one append-only file of lines */
#ifndef AUDIT_AUDIT_PRIV_H
#define AUDIT_AUDIT_PRIV_H

#include "adit/audit/audit.h"
#include "adit/base/clock.h"
#include "adit/base/lru.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/types.h>
#include <sys/uio.h>

/* The kernel's part, replaceable. */
struct audit_sys {
	int (*open_at)(int dir, const char *name, int flags, mode_t mode);
	ssize_t (*write_vec)(int fd, const struct iovec *iov, int count);
	int (*truncate)(int fd, off_t size);
	uint64_t (*now_ms)(void);
	unsigned stop_ms; /* how long audit_stop waits for it */
};
extern const struct audit_sys audit_sys_kernel;

/* --- one record on its way ------------------------------------------------------------------------------------ */
struct record {
	STAILQ_ENTRY(record) entry; /* queue, held */
	STAILQ_ENTRY(record) of_user; /* waiting for its user's file, within one batch */
	enum audit_kind kind;
	bool in_access, in_user; /* written there */
	bool failed; /* counted as failed */
	audit_done_fn *done;
	void *ctx;
	size_t user_n, line_n; /* line_n 0: no room in the queue, only `done` is due */
	char *line; /* line_n bytes, in the same allocation; then those of the user's name, without NUL */
};
STAILQ_HEAD(record_list, record);

static inline const char *record_user(const struct record *r) { return r->line + r->line_n; }

/* --- appender.c ----------------------------------------------------------------------------------------------- */
struct appender {
	int fd; /* -1: closed */
	bool checked; /* the end of the file is known to be the end of a line */
	bool torn; /* it is not, and cannot be cut: the next write begins with '\n' */
	int error; /* errno of the last attempt, 0: well */
};

void appender_init(struct appender *a);
/* Opens or creates, in place of the file it may have had; when that fails it keeps it. False: a->error says why. */
bool appender_open(struct appender *a, const struct audit_sys *sys, int dir, const char *name);
void appender_close(struct appender *a);
/* The file has lost its last name: what is written to it is lost. */
bool appender_is_gone(const struct appender *a);
off_t appender_size(const struct appender *a);
/* Appends whole lines; how many of them are in the file. Fewer than count: a->error says why, and no part of a further
 * line stands in the file (or it ends in a torn line, which the next write separates). Changes iov. */
size_t appender_write(struct appender *a, const struct audit_sys *sys, struct iovec *iov, size_t count);

/* --- directory.c ---------------------------------------------------------------------------------------------- */
struct directory;

struct directory *directory_new(const struct audit_config *config, const struct audit_sys *sys, char *error,
				size_t error_size) ADIT_MUST_USE;
void directory_free(struct directory *d);
/* All files anew, by their names; those of users when they are needed. What cannot be opened is tried again with the
 * next record: whoever moved the files away and cannot make new ones gets no records in the old ones. */
void directory_reopen(struct directory *d);
/* Writes what is missing of each record, access.jsonl first, and marks what was written. Without `retry` files that
 * failed at the last attempt are left alone: records that wait for them have to go first. */
void directory_write(struct directory *d, struct record_list *batch, bool retry, bool failure_allows);
/* Lines for strangers.jsonl; how many were written. */
size_t directory_write_strangers(struct directory *d, struct record_list *batch);

/* --- format.c ------------------------------------------------------------------------------------------------- */
/* As audit_format, for `count` refusals that were not recorded one by one. prefix NULL: of networks beyond the table,
 * or without an address. */
size_t format_summary(char *out, size_t size, const char *node, int64_t time_us, int64_t since_us,
		      enum reason reason, const struct cidr *prefix, unsigned long long count);

/* --- strangers.c ---------------------------------------------------------------------------------------------- */
enum {
	STRANGERS_PER_PREFIX = 10, /* records a second */
	STRANGERS_IN_ALL = 100,
	STRANGERS_PREFIXES = 4096, /* whose rate is known */
	STRANGERS_ROWS = 1024, /* of a summary, beside one for each reason */
	STRANGERS_SUMMARY_MS = 60000,
};

struct strangers;
struct strangers_row {
	enum reason reason;
	bool has_prefix;
	struct cidr prefix;
	unsigned long long count;
	int64_t since_us;
};

struct strangers *strangers_new(void) ADIT_MUST_USE;
void strangers_free(struct strangers *s);
/* May this refusal be written? Wrong passwords may use the whole rate, all else half of it. */
bool strangers_admit(struct strangers *s, uint64_t now_ms, const struct addr *client, enum reason reason);
/* Counts one that is not. True: the first since the last summary (the writer has a new date). */
bool strangers_count(struct strangers *s, uint64_t now_ms, int64_t wall_us, const struct addr *client,
		     enum reason reason);
uint64_t strangers_due_ms(struct strangers *s); /* of the next summary; 0: none */
/* Takes up to max rows of a summary that is due. 0: no more. */
size_t strangers_take(struct strangers *s, struct strangers_row *rows, size_t max);

/* --- audit.c and writer.c -------------------------------------------------------------------------------------- */
enum {
	STRANGERS_QUEUE = 1024, /* lines */
	HELD_RETRY_MS = 1000,
	NAP_MS = 100, /* how long a record that nobody waits for may wait for company */
	NAP_RECORDS = 512, /* with so many of them the nap is over */
};

struct audit {
	uint32_t magic;
	const struct audit_sys *sys;
	pthread_t thread;
	struct strangers *strangers;
	_Atomic(const char *) node; /* one of `nodes` */
	_Atomic bool failure_allows;
	_Atomic size_t queue_max;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	struct record_list queue, stranger_queue;
	size_t count, stranger_count;
	struct record switch_point; /* no record: a place in the queue, when switch_queued */
	bool switch_queued;
	struct directory *next; /* takes the place of `directory` at the switch point; NULL: reopen */
	bool idle; /* the writer waits: wake it */
	bool napping; /* it waits at most NAP_MS: wake it only for a record that somebody waits for */
	bool worked; /* it took something since it waited last */
	bool kicked, stopping, ended, joined;
	SLIST_HEAD(, node) nodes; /* every name so far: submitters may be reading an old one */

	/* the writer's own */
	struct directory *directory;
	struct record_list held;
	size_t held_count;
	uint64_t retry_ms; /* when held records are tried again */
};

/* audit_new with the kernel replaced. */
struct audit *audit_new_on(const struct audit_config *config, const struct audit_sys *sys, char *error,
			   size_t error_size) ADIT_MUST_USE;
/* Makes the writer look at its clock, for clocks that tests turn. */
void audit_kick(struct audit *audit);

/* ms from now, for a timed wait on `changed`. */
void audit_until(struct timespec *until, uint64_t ms);

void *writer_main(void *audit);

#endif
