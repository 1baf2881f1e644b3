/* Ids: order and uniqueness over threads and forks. File names: one user, one name, inside one directory. */
#include "unit/audit/support.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IDS = 20000, THREADS = 4 };

Test(id, alphabet_and_order)
{
	char before[AUDIT_ID_SIZE], now[AUDIT_ID_SIZE];

	audit_id(before);
	for (int i = 0; i < IDS; i++) {
		audit_id(now);
		cr_assert_eq(strlen(now), (size_t)AUDIT_ID_SIZE - 1);
		cr_assert_eq(strspn(now, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), strlen(now));
		cr_assert_leq(now[0], '7', "128 bits");
		cr_assert_lt(strcmp(before, now), 0);
		memcpy(before, now, sizeof(now));
	}
}

/* The first ten characters are the milliseconds since the epoch. */
Test(id, time)
{
	static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	int64_t before = clock_wall_us() / 1000, said = 0;
	char id[AUDIT_ID_SIZE];

	audit_id(id);
	for (int i = 0; i < 10; i++)
		said = said << 5 | (strchr(alphabet, id[i]) - alphabet);
	cr_assert(said >= before && said <= clock_wall_us() / 1000);
}

static char (*many[THREADS])[AUDIT_ID_SIZE];

static void *make_many(void *turn)
{
	for (int i = 0; i < IDS; i++)
		audit_id(many[(size_t)turn][i]);
	return NULL;
}

static int compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, AUDIT_ID_SIZE);
}

Test(id, unique_over_threads)
{
	char(*all)[AUDIT_ID_SIZE] = malloc(sizeof(*all) * THREADS * IDS);
	pthread_t threads[THREADS];

	for (size_t i = 0; i < THREADS; i++) {
		many[i] = all + i * IDS;
		cr_assert_eq(pthread_create(&threads[i], NULL, make_many, (void *)i), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	qsort(all, THREADS * IDS, sizeof(*all), compare_ids);
	for (int i = 1; i < THREADS * IDS; i++)
		cr_assert_neq(compare_ids(all[i - 1], all[i]), 0);
	free(all);
}

/* A forked process does not go on counting where its parent does. */
Test(id, unique_over_forks)
{
	char theirs[AUDIT_ID_SIZE], ours[AUDIT_ID_SIZE];
	int ends[2], status;
	pid_t child;

	audit_id(ours);
	cr_assert_eq(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		audit_id(theirs);
		_exit(write(ends[1], theirs, sizeof(theirs)) == (ssize_t)sizeof(theirs) ? 0 : 1);
	}
	audit_id(ours);
	cr_assert_eq(read(ends[0], theirs, sizeof(theirs)), (ssize_t)sizeof(theirs));
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert_neq(memcmp(ours + 10, theirs + 10, 16), 0);
}

static const struct {
	const char *user, *name;
} names[] = {
	{ "alice", "alice.jsonl" },
	{ "Alice", "Alice.jsonl" },
	{ "a.b-c_d", "a.b-c_d.jsonl" },
	{ "alice@example.org", "alice@example.org.jsonl" },
	{ "", "%.jsonl" },
	{ ".", "%2E.jsonl" },
	{ "..", "%2E..jsonl" },
	{ "../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd.jsonl" },
	{ "/etc/passwd", "%2Fetc%2Fpasswd.jsonl" },
	{ "-rf", "%2Drf.jsonl" },
	{ ".hidden", "%2Ehidden.jsonl" },
	{ "%2E", "%252E.jsonl" },
	{ "%", "%25.jsonl" },
	{ "%-", "%25-.jsonl" },
	{ "a b", "a%20b.jsonl" },
	{ "a\nb", "a%0Ab.jsonl" },
	{ "DOM\\bob", "DOM%5Cbob.jsonl" },
	{ "\xc3\xa4", "%C3%A4.jsonl" },
	{ "\xff", "%FF.jsonl" },
	{ "alice.jsonl", "alice.jsonl.jsonl" },
	{ "*?'\"`$;", "%2A%3F%27%22%60%24%3B.jsonl" },
};

Test(id, file_names)
{
	char name[AUDIT_FILE_NAME_SIZE];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		cr_expect_str_eq(audit_file_name(names[i].user, name), names[i].name);
}

/* Long names are cut and told apart by a hash; the border between whole and cut is no seam. */
Test(id, long_file_names)
{
	char user[1200], one[AUDIT_FILE_NAME_SIZE], other[AUDIT_FILE_NAME_SIZE];

	for (size_t n = 180; n < sizeof(user) - 1; n += n < 210 ? 1 : 97) {
		memset(user, 'x', n);
		user[n] = '\0';
		audit_file_name(user, one);
		cr_assert_leq(strlen(one), 255u);
		user[n - 1] = 'y';
		audit_file_name(user, other);
		cr_assert_str_neq(one, other);
		cr_assert_eq(strchr(one, '%') != NULL, n > 192);
	}
	memset(user, '\xff', 400);
	user[400] = '\0';
	audit_file_name(user, one);
	cr_assert_leq(strlen(one), 255u);
	cr_assert(strstr(one, "%FF%-"), "cut between escapes: %s", one);
}
