/* Lines on stderr: their shape, and that nobody waits for a reader who does not read. */
#include "adit/log/log.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "adit/log/stats.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WAIT_MS = 20000 };

static int reader = -1, stderr_before = -1;

/* stderr becomes a pipe; the reading end does not block. */
static void capture(void)
{
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	stderr_before = dup(STDERR_FILENO);
	dup2(ends[1], STDERR_FILENO);
	close(ends[1]);
	reader = ends[0];
	fcntl(reader, F_SETFL, O_NONBLOCK);
}

static void restore(void)
{
	dup2(stderr_before, STDERR_FILENO);
}

/* What was written, until `bytes` are there or nothing came for long. */
static size_t take(char *out, size_t size, size_t bytes)
{
	struct pollfd p = { .fd = reader, .events = POLLIN };
	size_t n = 0;

	while (n < bytes && n < size - 1 && poll(&p, 1, WAIT_MS) > 0) {
		ssize_t got = read(reader, out + n, size - 1 - n);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	out[n] = '\0';
	return n;
}

static void expect(const char *text)
{
	char got[4 * LOG_LINE_MAX];

	take(got, sizeof(got), strlen(text));
	restore();
	cr_assert_str_eq(got, text);
}

Test(log, shape_of_lines)
{
	unsetenv("JOURNAL_STREAM");
	capture();
	log_set_level(LOG_LEVEL_DEBUG);
	log_err("a %d", 1);
	log_warning("b");
	log_notice("ready: listening on %s", "[::]:8443");
	log_info("c");
	log_debug("d");
	expect("adit: error: a 1\nadit: warning: b\nadit: ready: listening on [::]:8443\nadit: info: c\nadit: debug: d\n");
}

Test(log, levels)
{
	capture();
	cr_assert(log_wants(LOG_LEVEL_NOTICE) && !log_wants(LOG_LEVEL_INFO));
	log_info("not this");
	log_set_level(LOG_LEVEL_ERR);
	log_warning("nor this");
	log_err("this");
	expect("adit: error: this\n");
}

Test(log, a_line_is_a_line)
{
	capture();
	log_notice("one\ntwo\r\x1b[31m\x7fthree\tfour \xc3\xa4");
	expect("adit: one?two??[31m?three?four \xc3\xa4\n");
}

Test(log, long_lines_are_cut_visibly)
{
	char text[3 * LOG_LINE_MAX], got[2 * LOG_LINE_MAX];
	size_t n;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	capture();
	log_notice("%s", text);
	n = take(got, sizeof(got), LOG_LINE_MAX - 1);
	restore();
	cr_assert_leq(n, (size_t)LOG_LINE_MAX);
	cr_assert_geq(n, (size_t)LOG_LINE_MAX - 2);
	cr_assert_str_eq(got + n - 5, "x...\n");
}

Test(log, journald)
{
	struct stat st;
	char stream[64];

	capture();
	cr_assert_eq(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	log_warning("direct");
	cr_assert(log_start(10));
	log_err("queued");
	log_stop();
	setenv("JOURNAL_STREAM", "1:1", 1);
	log_err("somebody else's");
	expect("<4>direct\n<3>queued\nadit: error: somebody else's\n");
}

Test(log, errno_is_kept)
{
	capture();
	errno = ENOSPC;
	log_err("x");
	cr_assert_eq(errno, ENOSPC);
	cr_assert(log_start(1));
	errno = ENOENT;
	log_err("y");
	cr_assert_eq(errno, ENOENT);
	log_stop();
	restore();
}

Test(log, the_thread_writes_in_order)
{
	char want[4096] = "", got[4096];
	size_t n = 0;

	capture();
	cr_assert(log_start(1000));
	for (int i = 0; i < 100; i++) {
		log_notice("line %d", i);
		n += (size_t)snprintf(want + n, sizeof(want) - n, "adit: line %d\n", i);
	}
	log_stop();
	log_notice("after");
	n += (size_t)snprintf(want + n, sizeof(want) - n, "adit: after\n");
	take(got, sizeof(got), n);
	restore();
	cr_assert_str_eq(got, want);
}

/* A full pipe: callers go on, the rest is counted, and what is said later says so. */
Test(log, a_full_pipe_stops_nobody)
{
	char got[1 << 18], *last;
	uint64_t start;

	capture();
	cr_assert(log_start(50));
	start = clock_mono_ms();
	for (int i = 0; i < 2000; i++)
		log_notice("%0500d", i);
	cr_assert_lt(clock_mono_ms() - start, WAIT_MS);
	cr_assert_gt(stats_get(STAT_LOG_DROPPED), 0);
	/* now somebody reads */
	last = NULL;
	for (size_t n = 0; n < sizeof(got) - 1 && !last;) {
		n += take(got + n, sizeof(got) - n, 1);
		last = strstr(got, "lines were left out here");
	}
	restore();
	cr_assert(last);
	log_stop();
}

Test(log, stop_does_not_wait_for_ever)
{
	uint64_t start;

	capture();
	cr_assert(log_start(2000));
	for (int i = 0; i < 2000; i++)
		log_notice("%0500d", i);
	start = clock_mono_ms();
	log_stop();
	restore();
	cr_assert_lt(clock_mono_ms() - start, WAIT_MS);
	cr_assert_gt(stats_get(STAT_LOG_DROPPED), 0);
}

Test(log, a_closed_stderr_is_harmless)
{
	int saved = dup(STDERR_FILENO);

	close(STDERR_FILENO);
	log_err("nobody hears");
	cr_assert(log_start(10));
	log_err("nobody hears this either");
	log_stop();
	dup2(saved, STDERR_FILENO);
	cr_assert_eq(stats_get(STAT_LOG_DROPPED), 2);
}

Test(log, a_reader_that_left_is_harmless)
{
	struct sigaction by_default = { .sa_handler = SIG_DFL };

	sigaction(SIGPIPE, &by_default, NULL);
	capture();
	cr_assert(log_start(10));
	close(reader);
	log_err("nobody hears");
	log_stop();
	restore();
	cr_assert_eq(stats_get(STAT_LOG_DROPPED), 1);
}

static void *say(void *name)
{
	for (int i = 0; i < 200; i++)
		log_notice("%s %d", (const char *)name, i);
	return NULL;
}

Test(log, lines_of_threads_do_not_mix)
{
	static char got[1 << 16], thread_names[4][2] = { "a", "b", "c", "d" };
	pthread_t threads[4];
	int next[4] = { 0 };
	size_t bytes = 0;

	for (int i = 0; i < 200; i++)
		bytes += 4 * (size_t)snprintf(got, sizeof(got), "adit: a %d\n", i);
	capture();
	cr_assert(log_start(10000));
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, say, thread_names[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	log_stop();
	take(got, sizeof(got), bytes);
	restore();
	for (char *line = got, *end; (end = strchr(line, '\n')); line = end + 1) {
		char who;
		int i;

		cr_assert_eq(sscanf(line, "adit: %c %d", &who, &i), 2);
		cr_assert(who >= 'a' && who <= 'd');
		cr_assert_eq(i, next[who - 'a']++);
	}
	for (int i = 0; i < 4; i++)
		cr_assert_eq(next[i], 200);
}

Test(log, limit_says_what_was_left_out)
{
	static struct log_limit often = LOG_LIMIT(0), once = LOG_LIMIT(1000000);

	capture();
	cr_assert(log_limit(&often) && log_limit(&often));
	cr_assert(log_limit(&once) && !log_limit(&once) && !log_limit(&once));
	atomic_store(&once.next_ms, 0);
	cr_assert(log_limit(&once));
	expect("adit: 2 lines like the next were left out\n");
}

Test(log, safe)
{
	static const struct {
		const char *text;
		size_t n, size;
		const char *safe;
	} rows[] = {
		{ "alice", 5, 64, "alice" },
		{ "", 0, 64, "" },
		{ "a\"b\\c", 5, 64, "a\\x22b\\x5cc" },
		{ "\x00\x1b\x7f\xff\n", 5, 64, "\\x00\\x1b\\x7f\\xff\\x0a" },
		{ "\xc3\xa4", 2, 64, "\\xc3\\xa4" },
		{ "abcdefgh", 8, 9, "abcdefgh" },
		{ "abcdefghi", 9, 9, "abcde..." },
		{ "abcdef\n", 7, 9, "abcde..." },
		{ "\n\n\n", 3, 9, "\\x0a..." },
		{ "\n\n", 2, 9, "\\x0a\\x0a" },
		{ "abcd", 4, 4, "..." },
		{ "abcd", 4, 3, ".." },
		{ "abcd", 4, 1, "" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char buf[65];

		memset(buf, '#', sizeof(buf));
		cr_assert_eq(log_safe((struct slice){ rows[i].text, rows[i].n }, buf, rows[i].size), buf);
		cr_assert_str_eq(buf, rows[i].safe, "row %zu: %s", i, buf);
		cr_assert_eq(buf[rows[i].size], '#', "row %zu", i);
	}
}

/* Without memory a line is dropped and counted, and nothing else happens. */
Test(log, out_of_memory)
{
	capture();
	cr_assert(log_start(10));
	mem_fault_set(1, false);
	log_err("lost");
	cr_assert(mem_fault_hit());
	mem_fault_set(0, false);
	log_err("kept");
	log_stop();
	cr_assert_eq(stats_get(STAT_LOG_DROPPED), 1);
	{
		char got[256];

		take(got, sizeof(got), 60);
		restore();
		cr_assert(strstr(got, "adit: error: kept\n") && strstr(got, "1 lines were left out"));
	}
}
