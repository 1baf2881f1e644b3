/* The service: what is acknowledged is in the files, whatever happens to them; what is not is refused, and heals. */
#include "unit/audit/support.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>


TestSuite(audit, .init = support_init, .fini = support_fini);

static int count(const char *name)
{
	return support_count(support_path(name));
}

static struct audit *new_audit(const struct audit_config *config)
{
	char error[512] = "";
	struct audit_config c = *config;
	struct audit *audit;

	c.directory = c.directory ? c.directory : support_dir;
	audit = audit_new_on(&c, &support_sys, error, sizeof(error));
	cr_assert(audit, "%s", error);
	return audit;
}

/* Nobody waits for this one. */
static void submit_quietly(struct audit *audit, enum audit_kind kind, const char *user)
{
	char id[AUDIT_ID_SIZE];
	struct audit_event event = support_event(kind, user, id);

	cr_assert_eq(audit_submit(audit, &event, NULL, NULL), REASON_OK);
}

/* stderr into a file, to count what the operator is told. */
static void log_to_file(void)
{
	int fd = open(support_path("stderr"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static int said(const char *what)
{
	size_t n;
	char *all = support_read(support_path("stderr"), &n);
	int times = 0;

	for (char *p = all; p && (p = strstr(p, what)); p++)
		times++;
	free(all);
	return times;
}

Test(audit, files_of_records)
{
	struct audit *audit = support_audit(&audit_sys_kernel);
	struct stat st;

	cr_assert_eq(count("access.jsonl"), 0);
	cr_assert_eq(count("strangers.jsonl"), 0);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(count("access.jsonl"), 1, "done comes after the write");
	cr_assert_eq(count("users/alice.jsonl"), 1);
	cr_assert_eq(support_submit(audit, AUDIT_PROGRESS, "alice"), REASON_OK);
	cr_assert_eq(support_submit(audit, AUDIT_CLOSE, "alice"), REASON_OK);
	cr_assert_eq(support_submit(audit, AUDIT_DENY, "bob"), REASON_OK);
	cr_assert_eq(count("access.jsonl"), 4);
	cr_assert_eq(count("users/alice.jsonl"), 3);
	cr_assert_eq(count("users/bob.jsonl"), 1);
	cr_assert_eq(stats_get(STAT_AUDIT_RECORDS), 4);
	cr_assert(support_has(support_path("users/bob.jsonl"), "reason", "denied"));
	cr_assert_eq(stat(support_path("users/bob.jsonl"), &st), 0);
	cr_assert_eq(st.st_mode & 0137, 0u);
	audit_free(audit);
	cr_assert_eq(count("strangers.jsonl"), 0);
}

static const char *const hostile_users[] = {
	"../../evil", "..", ".", "/etc/passwd", "a/b", "con\n", "-rf", "\xff\xfe", "%2e", "alice", "ALICE", "a\"b", " ", "..."
};
enum { HOSTILE = sizeof(hostile_users) / sizeof(hostile_users[0]) };

static int entries(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	cr_assert(dir);
	for (struct dirent *e; (e = readdir(dir));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(dir);
	return n;
}

Test(audit, hostile_users_stay_in_their_directory)
{
	struct audit *audit = support_audit(&audit_sys_kernel);

	for (int i = 0; i < HOSTILE; i++) {
		char name[AUDIT_FILE_NAME_SIZE], path[SUPPORT_PATH_MAX];

		cr_assert_eq(support_submit(audit, AUDIT_OPEN, hostile_users[i]), REASON_OK);
		snprintf(path, sizeof(path), "users/%s", audit_file_name(hostile_users[i], name));
		cr_assert_eq(count(path), 1, "%s", path);
	}
	cr_assert_eq(entries(support_path("users")), HOSTILE);
	cr_assert_eq(entries(support_dir), 3);
	audit_free(audit);
}

/* More users in one batch than descriptors: nothing is lost, and no more are open than allowed. */
Test(audit, more_users_than_descriptors)
{
	struct audit *audit = new_audit(&(struct audit_config){ .open_files = 3 });
	struct support_waiter waiters[60];
	int before = entries("/proc/self/fd");

	for (int round = 0; round < 3; round++) {
		atomic_store(&support_hang, true);
		for (int i = 0; i < 60; i++) {
			char user[16], id[AUDIT_ID_SIZE];
			struct audit_event event;

			snprintf(user, sizeof(user), "user%d", i % 20);
			event = support_event(AUDIT_OPEN, user, id);
			waiters[i] = (struct support_waiter){ 0, -1 };
			cr_assert_eq(audit_submit(audit, &event, support_done, &waiters[i]), REASON_OK);
		}
		atomic_store(&support_hang, false);
		for (int i = 0; i < 60; i++)
			support_until(atomic_load(&waiters[i].calls) == 1 && atomic_load(&waiters[i].verdict) == REASON_OK);
		cr_assert_leq(entries("/proc/self/fd"), before + 3);
	}
	for (int i = 0; i < 20; i++) {
		char path[32];

		snprintf(path, sizeof(path), "users/user%d.jsonl", i);
		cr_assert_eq(count(path), 9);
	}
	audit_free(audit);
	cr_assert_eq(entries("/proc/self/fd"), before - 4, "two directories, access, strangers");
}

/* No descriptor left: those of quiet users are given up for the one who comes. */
Test(audit, without_descriptors)
{
	struct audit *audit = support_audit(&audit_sys_kernel);
	struct rlimit limit;
	int spare[64], n = 0;

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = 40;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (n < 64 && (spare[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		n++;
	cr_assert(n < 64 && errno == EMFILE);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "bob"), REASON_OK);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	while (n > 0)
		close(spare[--n]);
	cr_assert_eq(count("users/alice.jsonl"), 2);
	cr_assert_eq(count("users/bob.jsonl"), 1);
	audit_free(audit);
}

/* --- failing and healing ---------------------------------------------------------------------------------------- */

Test(audit, a_full_disk_refuses_and_heals)
{
	struct audit *audit;

	log_to_file();
	audit = new_audit(&(struct audit_config){ .queue = 100 });
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	atomic_store(&support_room, 100);
	for (int i = 0; i < 20; i++)
		cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_AUDIT_UNAVAILABLE);
	cr_assert_eq(count("access.jsonl"), 1, "no half line either");
	cr_assert_eq(said("No space left on device; nothing is let through"), 1);
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 20);
	atomic_store(&support_room, SUPPORT_NO_LIMIT);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK, "at once: nothing waits");
	support_until(said("access.jsonl: writing again") == 1);
	cr_assert_eq(count("access.jsonl"), 2);
	cr_assert_eq(count("users/alice.jsonl"), 2);
	audit_free(audit);
	cr_assert_eq(said("error"), 1);
}

/* The ends of tunnels that the disk did not take are written, in order, when it does; without a further request. */
Test(audit, ends_are_kept_in_order)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 1000 });
	static struct support_ids ids;
	char want[50][AUDIT_ID_SIZE];

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	atomic_store(&support_room, 0);
	for (int i = 0; i < 50; i++) {
		struct support_waiter waiter = { 0, -1 };
		struct audit_event event = support_event(i % 5 == 0 ? AUDIT_DENY : AUDIT_CLOSE, "alice", want[i]);

		cr_assert_eq(audit_submit(audit, &event, support_done, &waiter), REASON_OK);
		support_until(atomic_load(&waiter.calls) == 1);
		cr_assert_eq(atomic_load(&waiter.verdict), REASON_AUDIT_UNAVAILABLE, "told at once");
		if (i % 7 == 0) {
			submit_quietly(audit, AUDIT_PROGRESS, "alice");
			cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_AUDIT_UNAVAILABLE);
		}
	}
	cr_assert_eq(count("access.jsonl"), 1);
	atomic_store(&support_room, SUPPORT_NO_LIMIT);
	support_until(count("users/alice.jsonl") == 51);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	for (int file = 0; file < 2; file++) {
		support_ids(support_path(file ? "access.jsonl" : "users/alice.jsonl"), &ids);
		cr_assert_eq(ids.count, 52u);
		for (int i = 0; i < 50; i++)
			cr_assert_str_eq(ids.id[i + 1], want[i]);
	}
	audit_free(audit);
}

/* What is kept is bounded; refusals leave room for ends. */
Test(audit, what_is_kept_is_bounded)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 40 });

	atomic_store(&support_room, 0);
	for (int i = 0; i < 200; i++)
		cr_assert_eq(support_submit(audit, AUDIT_DENY, "alice"), REASON_AUDIT_UNAVAILABLE);
	for (int i = 0; i < 200; i++)
		cr_assert_eq(support_submit(audit, AUDIT_CLOSE, "alice"), REASON_AUDIT_UNAVAILABLE);
	atomic_store(&support_room, SUPPORT_NO_LIMIT);
	support_until(count("users/alice.jsonl") == 40);
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 400);
	audit_free(audit);
	cr_assert_eq(count("access.jsonl"), 40);
}

Test(audit, on_failure_allow)
{
	struct audit *audit;

	log_to_file();
	audit = new_audit(&(struct audit_config){ .queue = 100, .on_failure_allow = true });
	atomic_store(&support_room, 0);
	for (int i = 0; i < 10; i++)
		cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 10);
	cr_assert_eq(said("go on without a record"), 1);
	cr_assert_eq(count("access.jsonl"), 0);
	atomic_store(&support_room, SUPPORT_NO_LIMIT);
	support_until(count("users/alice.jsonl") == 10); /* those accesses took place: kept */
	audit_free(audit);
}

static void fill_queue(struct audit *audit, int n, struct support_waiter *waiters, enum reason last)
{
	for (int i = 0; i < n; i++) {
		char id[AUDIT_ID_SIZE];
		struct audit_event event = support_event(AUDIT_OPEN, "alice", id);

		waiters[i] = (struct support_waiter){ 0, -1 };
		cr_assert_eq(audit_submit(audit, &event, support_done, &waiters[i]), i < n - 1 ? REASON_OK : last);
	}
}

/* The writer takes one record and hangs with it. */
static void hang(struct audit *audit, struct support_waiter *waiter)
{
	unsigned before = atomic_load(&support_writes);

	atomic_store(&support_hang, true);
	fill_queue(audit, 1, waiter, REASON_OK);
	support_until(atomic_load(&support_writes) > before);
}

Test(audit, a_full_queue)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 4 });
	struct support_waiter waiters[6];
	char id[AUDIT_ID_SIZE];
	struct audit_event close = support_event(AUDIT_CLOSE, "alice", id);

	hang(audit, &waiters[5]);
	fill_queue(audit, 5, waiters, REASON_AUDIT_UNAVAILABLE);
	for (int i = 0; i < 4; i++)
		submit_quietly(audit, i % 2 ? AUDIT_CLOSE : AUDIT_DENY, "alice");
	cr_assert_eq(audit_submit(audit, &close, NULL, NULL), REASON_AUDIT_UNAVAILABLE);
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 2);
	atomic_store(&support_hang, false);
	for (int i = 0; i < 4; i++)
		support_until(atomic_load(&waiters[i].calls) == 1 && atomic_load(&waiters[i].verdict) == REASON_OK);
	cr_assert_eq(atomic_load(&waiters[4].calls), 0, "was not queued");
	audit_free(audit);
	cr_assert_eq(count("access.jsonl"), 9);
}

Test(audit, a_full_queue_with_on_failure_allow)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 4, .on_failure_allow = true });
	struct support_waiter waiters[21];

	hang(audit, &waiters[20]);
	fill_queue(audit, 20, waiters, REASON_OK);
	cr_assert_eq(atomic_load(&waiters[19].calls), 0);
	atomic_store(&support_hang, false);
	for (int i = 0; i < 21; i++)
		support_until(atomic_load(&waiters[i].calls) == 1 && atomic_load(&waiters[i].verdict) == REASON_OK);
	audit_free(audit);
	cr_assert_eq(count("access.jsonl"), 5);
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 16);
}

/* The file of one user fails: this user is refused, nobody else. */
Test(audit, a_symlink_in_the_place_of_a_users_file)
{
	struct audit *audit;
	int fd = open(support_path("precious"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	close(fd);
	log_to_file();
	audit = new_audit(&(struct audit_config){ .queue = 100 });
	cr_assert_eq(symlink("../precious", support_path("users/mallory.jsonl")), 0);
	for (int i = 0; i < 5; i++) {
		cr_assert_eq(support_submit(audit, AUDIT_OPEN, "mallory"), REASON_AUDIT_UNAVAILABLE);
		cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	}
	submit_quietly(audit, AUDIT_CLOSE, "mallory");
	cr_assert_eq(said("file of user mallory: it is a symbolic link; nothing is let through for this user"), 1);
	cr_assert_eq(count("precious"), 0);
	cr_assert_eq(remove(support_path("users/mallory.jsonl")), 0);
	support_until(count("users/mallory.jsonl") == 1); /* the end that was kept */
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "mallory"), REASON_OK);
	support_until(said("file of user mallory: writing again") == 1);
	audit_free(audit);
	cr_assert_eq(count("users/mallory.jsonl"), 2);
	cr_assert_eq(count("access.jsonl"), 5 + 5 + 1 + 1);
}

static void remove_directory(void)
{
	cr_assert_eq(remove(support_path("access.jsonl")), 0);
	cr_assert_eq(remove(support_path("strangers.jsonl")), 0);
	cr_assert_eq(remove(support_path("users/alice.jsonl")), 0);
	cr_assert_eq(remove(support_path("users")), 0);
	cr_assert_eq(remove(support_dir), 0);
}

/* Everything removed behind our back: first nothing is let through, then, with the directory back, all is made anew. */
Test(audit, a_vanished_directory)
{
	struct audit *audit = support_audit(&audit_sys_kernel);

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	remove_directory();
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_AUDIT_UNAVAILABLE);
	submit_quietly(audit, AUDIT_CLOSE, "alice");
	cr_assert_eq(mkdir(support_dir, 0700), 0);
	support_until(count("users/alice.jsonl") == 1);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(count("access.jsonl"), 2);
	cr_assert_eq(count("users/alice.jsonl"), 2);
	audit_free(audit);
}

Test(audit, removed_files_are_made_again)
{
	struct audit *audit = support_audit(&audit_sys_kernel);

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(remove(support_path("users/alice.jsonl")), 0);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(count("users/alice.jsonl"), 1);
	cr_assert_eq(remove(support_path("access.jsonl")), 0);
	cr_assert_eq(remove(support_path("users/alice.jsonl")), 0);
	cr_assert_eq(remove(support_path("users")), 0);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(count("access.jsonl"), 1);
	cr_assert_eq(count("users/alice.jsonl"), 1);
	audit_free(audit);
}

/* The disk fills up at any byte of a batch of three users. Whoever was told yes is in both files; all lines are
 * whole. */
Test(audit, full_at_every_byte)
{
	enum { RECORDS = 6, LINE = 260 };

	for (long long k = 0; k < 2 * RECORDS * LINE; k += 17) {
		struct audit *audit = new_audit(&(struct audit_config){ .queue = 100 });
		struct support_waiter waiters[RECORDS];
		char ids[RECORDS][AUDIT_ID_SIZE];

		atomic_store(&support_room, k);
		for (int i = 0; i < RECORDS; i++) {
			char user[8];
			struct audit_event event;

			snprintf(user, sizeof(user), "u%d", i % 3);
			event = support_event(AUDIT_OPEN, user, ids[i]);
			waiters[i] = (struct support_waiter){ 0, -1 };
			cr_assert_eq(audit_submit(audit, &event, support_done, &waiters[i]), REASON_OK);
		}
		audit_free(audit);
		for (int i = 0; i < RECORDS; i++) {
			char path[32];

			cr_assert_eq(atomic_load(&waiters[i].calls), 1);
			snprintf(path, sizeof(path), "users/u%d.jsonl", i % 3);
			if (atomic_load(&waiters[i].verdict) == REASON_OK)
				cr_assert(support_has(support_path("access.jsonl"), "id", ids[i]) &&
					  support_has(support_path(path), "id", ids[i]), "room for %lld", k);
		}
		cr_assert_geq(count("access.jsonl"), 0);
		cr_assert_eq(remove(support_path("access.jsonl")), 0);
		atomic_store(&support_room, SUPPORT_NO_LIMIT);
	}
}

/* The kernel's own refusal instead of the injected one. */
Test(audit, file_size_limit)
{
	struct audit *audit = support_audit(&audit_sys_kernel);
	struct rlimit limit, before;
	struct sigaction ignore = { .sa_handler = SIG_IGN };

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	sigaction(SIGXFSZ, &ignore, NULL);
	getrlimit(RLIMIT_FSIZE, &before);
	limit = before;
	limit.rlim_cur = 700;
	setrlimit(RLIMIT_FSIZE, &limit);
	while (support_submit(audit, AUDIT_OPEN, "alice") == REASON_OK)
		;
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_AUDIT_UNAVAILABLE);
	setrlimit(RLIMIT_FSIZE, &before);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(count("access.jsonl"), count("users/alice.jsonl"));
	audit_free(audit);
}

/* --- changing files ---------------------------------------------------------------------------------------------- */

enum { THREADS = 4, EACH = 2000, ROTATIONS = 15 };

static struct audit *shared;
static char (*acknowledged)[AUDIT_ID_SIZE];
static _Atomic int acknowledged_count;

static void *submit_many(void *name)
{
	for (int i = 0; i < EACH; i++) {
		struct support_waiter waiter = { 0, -1 };
		char id[AUDIT_ID_SIZE];
		struct audit_event event = support_event(AUDIT_OPEN, name, id);

		if (audit_submit(shared, &event, support_done, &waiter) != REASON_OK)
			return "refused";
		while (atomic_load(&waiter.calls) == 0)
			sched_yield();
		if (atomic_load(&waiter.verdict) != REASON_OK)
			return "not written";
		memcpy(acknowledged[atomic_fetch_add(&acknowledged_count, 1)], id, sizeof(id));
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void expect_all_once(const char *const *paths, int path_count)
{
	static struct support_ids part;
	static char all[SUPPORT_RECORDS_MAX][AUDIT_ID_SIZE];
	size_t n = 0;

	for (int i = 0; i < path_count; i++) {
		support_ids(paths[i], &part);
		cr_assert_leq(n + part.count, (size_t)SUPPORT_RECORDS_MAX);
		memcpy(all[n], part.id, part.count * sizeof(*all));
		n += part.count;
	}
	cr_assert_eq(n, (size_t)atomic_load(&acknowledged_count));
	qsort(all, n, sizeof(*all), compare);
	qsort(acknowledged, n, sizeof(*acknowledged), compare);
	for (size_t i = 0; i < n; i++)
		cr_assert_str_eq(all[i], acknowledged[i]);
}

/* Renamed and reopened again and again under load: every acknowledged record is in exactly one of the files. */
Test(audit, reopen_loses_nothing_under_load)
{
	static char paths[ROTATIONS + 1][SUPPORT_PATH_MAX], users[THREADS][16];
	const char *list[ROTATIONS + 1];
	pthread_t threads[THREADS];

	shared = support_audit(&audit_sys_kernel);
	acknowledged = calloc(THREADS * EACH, sizeof(*acknowledged));
	for (int i = 0; i < THREADS; i++) {
		snprintf(users[i], sizeof(users[i]), "u%d", i);
		cr_assert_eq(pthread_create(&threads[i], NULL, submit_many, users[i]), 0);
	}
	for (int i = 0; i < ROTATIONS; i++) {
		int at = atomic_load(&acknowledged_count);

		support_until(atomic_load(&acknowledged_count) > at + 20 ||
			      atomic_load(&acknowledged_count) == THREADS * EACH);
		snprintf(paths[i], SUPPORT_PATH_MAX, "%s/access.jsonl.%d", support_dir, i);
		cr_assert_eq(rename(support_path("access.jsonl"), paths[i]), 0);
		audit_reopen(shared);
		support_until(access(support_path("access.jsonl"), F_OK) == 0);
	}
	for (int i = 0; i < THREADS; i++) {
		void *trouble;

		pthread_join(threads[i], &trouble);
		cr_assert_null(trouble, "%s", (const char *)trouble);
	}
	audit_free(shared);
	snprintf(paths[ROTATIONS], SUPPORT_PATH_MAX, "%s/access.jsonl", support_dir);
	for (int i = 0; i <= ROTATIONS; i++)
		list[i] = paths[i];
	expect_all_once(list, ROTATIONS + 1);
	for (int i = 0; i < THREADS; i++) {
		snprintf(paths[i], SUPPORT_PATH_MAX, "%s/users/u%d.jsonl", support_dir, i);
		cr_assert_eq(support_count(paths[i]), EACH);
	}
	free(acknowledged);
}

static _Atomic bool reopen_enough;

static void *reopen_often(void *unused)
{
	struct audit_config config = { .directory = support_dir };
	char error[256];

	for (int i = 0; !atomic_load(&reopen_enough); i++) {
		if (i % 8 == 7 && !audit_reconfigure(shared, &config, error, sizeof(error)))
			return "not reconfigured";
		audit_reopen(shared);
	}
	return unused;
}

/* Requests to reopen that overtake each other, from two threads, while records come. */
Test(audit, reopen_as_fast_as_can_be)
{
	static char users[THREADS][16];
	pthread_t threads[THREADS], reopeners[2];
	const char *path = support_path("access.jsonl");
	void *trouble;

	shared = support_audit(&audit_sys_kernel);
	acknowledged = calloc(THREADS * EACH, sizeof(*acknowledged));
	for (int i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&reopeners[i], NULL, reopen_often, NULL), 0);
	for (int i = 0; i < THREADS; i++) {
		snprintf(users[i], sizeof(users[i]), "u%d", i);
		cr_assert_eq(pthread_create(&threads[i], NULL, submit_many, users[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &trouble);
		cr_assert_null(trouble, "%s", (const char *)trouble);
	}
	atomic_store(&reopen_enough, true);
	for (int i = 0; i < 2; i++) {
		pthread_join(reopeners[i], &trouble);
		cr_assert_null(trouble, "%s", (const char *)trouble);
	}
	audit_free(shared);
	expect_all_once(&path, 1);
	free(acknowledged);
}

/* What was submitted before goes to the files that were open, even when it is still in the queue. */
Test(audit, reopen_is_a_line_in_the_queue)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 100 });
	struct support_waiter waiter;

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	hang(audit, &waiter);
	submit_quietly(audit, AUDIT_CLOSE, "alice");
	cr_assert_eq(rename(support_path("access.jsonl"), support_path("access.jsonl.1")), 0);
	cr_assert_eq(rename(support_path("users/alice.jsonl"), support_path("users/alice.jsonl.1")), 0);
	audit_reopen(audit);
	submit_quietly(audit, AUDIT_DENY, "alice");
	submit_quietly(audit, AUDIT_DENY, "alice");
	atomic_store(&support_hang, false);
	audit_free(audit);
	cr_assert_eq(count("access.jsonl.1"), 3);
	cr_assert_eq(count("users/alice.jsonl.1"), 3);
	cr_assert_eq(count("access.jsonl"), 2);
	cr_assert_eq(count("users/alice.jsonl"), 2);
}

/* Files moved away and no new ones to be had: nobody asked for records in the old ones. */
Test(audit, reopen_in_vain)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 100 });

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	atomic_store(&support_no_open, true);
	audit_reopen(audit);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_AUDIT_UNAVAILABLE);
	submit_quietly(audit, AUDIT_CLOSE, "alice");
	atomic_store(&support_no_open, false);
	support_until(count("users/alice.jsonl") == 2);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	audit_free(audit);
	cr_assert_eq(count("access.jsonl"), 3);
}

Test(audit, reconfigure)
{
	struct audit *audit = new_audit(&(struct audit_config){ .node = "one", .queue = 100 });
	struct audit_config config = { .directory = support_path("next"), .node = "two" };
	char error[512] = "";

	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_not(audit_reconfigure(audit, &config, error, sizeof(error)), "there is no such directory");
	cr_assert(strstr(error, "next") && strstr(error, "No such file"), "%s", error);
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	cr_assert_eq(mkdir(support_path("next"), 0700), 0);
	for (int i = 0; i < 3; i++) /* once more without the writer having looked */
		cr_assert(audit_reconfigure(audit, &config, error, sizeof(error)));
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	audit_reopen(audit);
	cr_assert_eq(support_submit(audit, AUDIT_CLOSE, "alice"), REASON_OK);
	config.directory = support_dir;
	cr_assert(audit_reconfigure(audit, &config, error, sizeof(error)));
	audit_free(audit);
	cr_assert_eq(count("access.jsonl"), 2);
	cr_assert_eq(count("next/access.jsonl"), 2);
	cr_assert_eq(count("next/users/alice.jsonl"), 2);
	cr_assert(support_has(support_path("access.jsonl"), "node", "one"));
	cr_assert(support_has(support_path("next/access.jsonl"), "node", "two"));
}

/* A reload that changes something else keeps files, records that wait, and their order. */
Test(audit, reconfigure_keeps_what_waits)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 100 });
	struct audit_config config = { .directory = support_dir, .queue = 100, .on_failure_allow = true };
	char error[512] = "";

	atomic_store(&support_room, 0);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(support_submit(audit, AUDIT_CLOSE, "alice"), REASON_AUDIT_UNAVAILABLE);
	cr_assert(audit_reconfigure(audit, &config, error, sizeof(error)));
	cr_assert_eq(support_submit(audit, AUDIT_OPEN, "alice"), REASON_OK);
	atomic_store(&support_room, SUPPORT_NO_LIMIT);
	support_until(count("users/alice.jsonl") == 6);
	audit_free(audit);
	cr_assert_eq(count("access.jsonl"), 6);
}

/* --- beginning and end -------------------------------------------------------------------------------------------- */

Test(audit, directories_that_will_not_do)
{
	static const char *const bad[] = { "nowhere", "file" };
	char error[512];
	int fd = open(support_path("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	close(fd);
	for (int i = 0; i < 2; i++) {
		struct audit_config config = { .directory = support_path(bad[i]) };

		*error = '\0';
		cr_assert_null(audit_new(&config, error, sizeof(error)));
		cr_assert(strstr(error, bad[i]), "%s", error);
	}
	cr_assert_eq(mkdir(support_path("taken"), 0700), 0);
	cr_assert_eq(mkdir(support_path("taken/access.jsonl"), 0700), 0);
	cr_assert_null(audit_new(&(struct audit_config){ .directory = support_path("taken") }, error, sizeof(error)));
	cr_assert(strstr(error, "access.jsonl: Is a directory"), "%s", error);
	cr_assert_eq(mkdir(support_path("linked"), 0700), 0);
	cr_assert_eq(symlink("/tmp", support_path("linked/users")), 0);
	cr_assert_null(audit_new(&(struct audit_config){ .directory = support_path("linked") }, error, sizeof(error)));
}

Test(audit, stop_writes_what_is_queued)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 1000 });
	struct support_waiter waiters[501];
	char id[AUDIT_ID_SIZE];
	struct audit_event event = support_event(AUDIT_OPEN, "alice", id);

	hang(audit, &waiters[500]);
	fill_queue(audit, 500, waiters, REASON_OK);
	atomic_store(&support_hang, false);
	cr_assert(audit_stop(audit));
	for (int i = 0; i < 501; i++)
		cr_assert(atomic_load(&waiters[i].calls) == 1 && atomic_load(&waiters[i].verdict) == REASON_OK);
	cr_assert_eq(audit_submit(audit, &event, support_done, &waiters[0]), REASON_AUDIT_UNAVAILABLE);
	event.user = NULL;
	event.kind = AUDIT_DENY;
	cr_assert_eq(audit_submit(audit, &event, NULL, NULL), REASON_OK);
	audit_reopen(audit);
	cr_assert(audit_stop(audit), "twice is fine");
	audit_free(audit);
	audit_free(NULL);
	cr_assert_eq(count("access.jsonl"), 501);
}

/* A disk that hangs: the stop gives up, whoever waits in the queue is answered, and nothing crashes. */
Test(audit, stop_does_not_wait_for_ever)
{
	struct audit *audit = new_audit(&(struct audit_config){ .queue = 10 });
	struct support_waiter waiters[6];

	hang(audit, &waiters[5]);
	fill_queue(audit, 5, waiters, REASON_OK);
	cr_assert_not(audit_stop(audit));
	for (int i = 0; i < 5; i++)
		cr_assert(atomic_load(&waiters[i].calls) == 1 &&
			  atomic_load(&waiters[i].verdict) == REASON_AUDIT_UNAVAILABLE);
	atomic_store(&support_hang, false);
	support_until(audit_stop(audit));
	cr_assert_eq(atomic_load(&waiters[5].verdict), REASON_OK);
	audit_free(audit);
}

Test(audit, records_lost_at_the_end_are_said)
{
	struct audit *audit;

	log_to_file();
	audit = new_audit(&(struct audit_config){ .queue = 10 });
	atomic_store(&support_room, 0);
	cr_assert_eq(support_submit(audit, AUDIT_CLOSE, "alice"), REASON_AUDIT_UNAVAILABLE);
	audit_free(audit);
	cr_assert_eq(said("1 records could not be written before the end and are lost"), 1);
}

Test(audit, out_of_memory)
{
	for (unsigned long nth = 1;; nth++) {
		struct audit_config config = { .directory = support_dir, .node = "n" };
		char error[512] = "", id[AUDIT_ID_SIZE];
		struct audit_event event = support_event(AUDIT_OPEN, "alice", id);
		struct support_waiter waiter = { 0, -1 };
		struct audit *audit;
		bool hit;

		mem_fault_set(nth, false);
		audit = audit_new(&config, error, sizeof(error));
		cr_assert_eq(!audit, *error != '\0' && strstr(error, "memory"), "%s", error);
		if (audit) {
			enum reason r = audit_submit(audit, &event, support_done, &waiter);

			cr_assert(r == REASON_OK || (r == REASON_NO_MEMORY && mem_fault_hit()));
			config.node = "m";
			if (!audit_reconfigure(audit, &config, error, sizeof(error)))
				cr_assert(mem_fault_hit() && strstr(error, "memory"), "%s", error);
			event = support_event(AUDIT_DENY, NULL, id);
			cr_assert_eq(audit_submit(audit, &event, NULL, NULL), REASON_OK);
			if (r == REASON_OK)
				support_until(atomic_load(&waiter.calls) == 1 && atomic_load(&waiter.verdict) == REASON_OK);
		}
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		audit_free(audit);
		if (!hit)
			break;
	}
}

/* The writer's own allocations: faults are counted by thread, so this one writes in the test's thread. */
Test(audit, out_of_memory_while_writing)
{
	for (unsigned long nth = 1;; nth++) {
		struct audit_config config = { .directory = support_dir };
		struct record_list batch = STAILQ_HEAD_INITIALIZER(batch);
		struct record records[3];
		char error[512], line[] = "{}\nalice";
		struct directory *d = directory_new(&config, &audit_sys_kernel, error, sizeof(error));
		bool hit;

		cr_assert(d);
		for (int i = 0; i < 3; i++) {
			records[i] = (struct record){ .line = line, .line_n = 3, .user_n = i < 2 ? 5 : 4 };
			STAILQ_INSERT_TAIL(&batch, &records[i], entry);
		}
		mem_fault_set(nth, false);
		directory_write(d, &batch, true, false);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		for (int i = 0; i < 3; i++)
			cr_assert(records[i].in_access && (records[i].in_user || hit));
		directory_write(d, &batch, true, false);
		for (int i = 0; i < 3; i++)
			cr_assert(records[i].in_user, "the rest, once there is memory");
		directory_free(d);
		if (!hit)
			break;
	}
	cr_assert_eq(stats_get(STAT_AUDIT_FAILED), 0);
}
