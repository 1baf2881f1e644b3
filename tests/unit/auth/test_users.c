/* The htpasswd file: what is read, what is refused and how it is said, and running out of memory at every place. */
#include "adit/auth/users.h"
#include "adit/base/mem.h"
#include "component/failing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHA "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1A="
#define APR "$apr1$dklnFclS$Oya50ZBWDOdN2HJ8TOsPa/"

struct said {
	unsigned count, lines[64];
	char last[512], all[16384];
};

static void note(void *ctx, unsigned line, const char *message)
{
	struct said *said = ctx;

	if (said->count < 64)
		said->lines[said->count] = line;
	said->count++;
	snprintf(said->last, sizeof(said->last), "%s", message);
	snprintf(said->all + strlen(said->all), sizeof(said->all) - strlen(said->all), "%u: %s\n", line, message);
}

static struct users *parse(struct slice text, struct said *said)
{
	char *copy = malloc(text.n ? text.n : 1);
	struct users *users;

	if (text.n)
		memcpy(copy, text.p, text.n);
	memset(said, 0, sizeof(*said));
	users = users_parse((struct slice){ copy, text.n }, note, said);
	free(copy);
	return users;
}

Test(users, good_file)
{
	static const char text[] = "\xef\xbb\xbf# made by hand\n"
				   "alice:" SHA "\n"
				   "\n"
				   "  \t \r\n"
				   "bob b:" APR "\r\n"
				   "#carol:" SHA "\n"
				   "J\xc3\xbcrgen:" SHA;
	struct said said;
	struct users *users = parse(slice_of(text), &said);

	cr_assert_not_null(users, "%s", said.all);
	cr_expect_eq(users_count(users), 3);
	cr_expect_str_eq(users_at(users, 0)->name, "alice");
	cr_expect_str_eq(users_at(users, 0)->hash, SHA);
	cr_expect_eq(users_at(users, 0)->line, 2);
	cr_expect_str_eq(users_at(users, 1)->name, "bob b");
	cr_expect_str_eq(users_at(users, 1)->hash, APR);
	cr_expect_eq(users_at(users, 1)->line, 5);
	cr_expect_eq(users_at(users, 1)->kind, HASH_APR1);
	cr_expect_eq(users_at(users, 2)->line, 7);
	cr_expect_eq(users_find(users, slice_of("alice")), users_at(users, 0));
	cr_expect_eq(users_find(users, slice_of("J\xc3\xbcrgen")), users_at(users, 2));
	cr_expect_null(users_find(users, slice_of("Alice")), "names differ by case");
	cr_expect_null(users_find(users, slice_of("alic")));
	cr_expect_null(users_find(users, slice_of("")));
	cr_expect_null(users_find(users, (struct slice){ "alice\0x", 7 }));
	cr_expect_eq(users_ref(users), users);
	users_unref(users);
	users_unref(users);
	users_unref(NULL);
}

Test(users, empty_file)
{
	struct said said;
	struct users *users = parse(slice_of("# nobody yet\n"), &said);

	cr_assert_not_null(users);
	cr_expect_eq(users_count(users), 0);
	cr_expect_null(users_find(users, slice_of("alice")));
	users_unref(users);
}

#define X10 "xxxxxxxxxx"
#define X50 X10 X10 X10 X10 X10
#define X250 X50 X50 X50 X50 X50

struct wrong {
	const char *text;
	size_t n; /* 0: strlen */
	unsigned line;
	const char *says;
};

static const struct wrong wrongs[] = {
	{ "alice", 0, 1, "colon" },
	{ "ok:" SHA "\nalice " SHA "\n", 0, 2, "colon" },
	{ ":" SHA, 0, 1, "empty" },
	{ "a:", 0, 1, "no hash" },
	{ "\n\na:\r\n", 0, 3, "no hash" },
	{ "a:" SHA ":more", 0, 1, "field" },
	{ "a:" SHA ":", 0, 1, "field" },
	{ "a\tb:" SHA, 0, 1, "control" },
	{ "a\x7f:" SHA, 0, 1, "control" },
	{ "a\0b:" SHA, 4 + sizeof(SHA) - 1, 1, "control" },
	{ " a:" SHA, 0, 1, "space" },
	{ "a :" SHA, 0, 1, "space" },
	{ X250 "xxxxxx:" SHA, 0, 1, "255" },
	{ "a:WVZrlUvPHOmcM", 0, 1, "DES" },
	{ "a:secret", 0, 1, "plain text" },
	{ "a:" SHA "\nb:" SHA "\n\na:" APR "\n", 0, 4, "line 1" },
	{ "a:" SHA " ", 0, 1, "white space" },
	{ "a:" SHA "\0", 2 + sizeof(SHA), 1, "{SHA}" },
};

Test(users, refused_by_line)
{
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		const struct wrong *w = &wrongs[i];
		struct said said;

		cr_assert_null(parse((struct slice){ w->text, w->n ? w->n : strlen(w->text) }, &said), "row %zu", i);
		cr_expect_eq(said.count, 1, "row %zu: %s", i, said.all);
		cr_expect_eq(said.lines[0], w->line, "row %zu: %s", i, said.all);
		cr_expect_not_null(strstr(said.last, w->says), "row %zu: %s", i, said.all);
		cr_expect_null(strstr(said.all, "secret"), "a hash or password is shown");
	}
	struct said said;
	struct users *users = parse(slice_of(X250 "xxxxx:" SHA), &said);
	cr_expect_not_null(users);
	users_unref(users);
}

Test(users, every_wrong_line_is_said_up_to_a_bound)
{
	char text[8192] = "";
	struct said said;

	cr_expect_null(parse(slice_of("a\nb:" SHA "\nc:x\n:\n"), &said));
	cr_expect_eq(said.count, 3);
	cr_expect_eq(said.lines[0], 1);
	cr_expect_eq(said.lines[1], 3);
	cr_expect_eq(said.lines[2], 4);
	for (int i = 0; i < 500; i++)
		strncat(text, "wrong\n", sizeof(text) - strlen(text) - 1);
	cr_expect_null(parse(slice_of(text), &said));
	cr_expect_eq(said.count, 21);
	cr_expect_str_eq(said.last, "480 more lines are wrong");
}

/* Enough users to make list and index grow several times. */
static char *many(size_t count)
{
	char *text = malloc(count * 64 + 1), *at = text;

	for (size_t i = 0; i < count; i++)
		at += snprintf(at, 64, "user%zu:" SHA "\n", i);
	return text;
}

Test(users, many)
{
	char *text = many(5000);
	struct said said;
	struct users *users = parse(slice_of(text), &said);

	free(text);
	cr_assert_not_null(users);
	cr_expect_eq(users_count(users), 5000);
	for (size_t i = 0; i < 5000; i++) {
		char name[32];

		snprintf(name, sizeof(name), "user%zu", i);
		cr_assert_eq(users_find(users, slice_of(name)), users_at(users, i));
		snprintf(name, sizeof(name), "nobody%zu", i);
		cr_assert_null(users_find(users, slice_of(name)));
	}
	users_unref(users);
}

Test(users, out_of_memory)
{
	char *text = many(200);
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		struct said said;
		struct users *users;

		memset(&said, 0, sizeof(said));
		mem_fault_set(nth, false);
		users = users_parse(slice_of(text), note, &said);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_expect_eq(users == NULL, hit, "allocation %lu", nth);
		cr_expect(!hit || strstr(said.last, "memory"), "allocation %lu: %s", nth, said.last);
		users_unref(users);
	}
	free(text);
}

Test(users, load)
{
	char folder[] = "/tmp/adit-users-XXXXXX", path[64];
	struct said said = { 0 };
	struct users *users;
	char *text = many(5000); /* more than one read's worth */
	FILE *f;
	bool hit = true;

	cr_assert_not_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/htpasswd", folder);
	cr_expect_null(users_load(path, note, &said));
	cr_expect_eq(said.lines[0], 0);
	cr_expect_not_null(strstr(said.last, "No such file"));
	cr_expect_null(users_load(folder, note, &said));
	cr_expect_not_null(strstr(said.last, "regular"));
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_expect_null(users_load(path, note, &said), "must not wait for a writer");
	cr_expect_not_null(strstr(said.last, "regular"));
	unlink(path);

	f = fopen(path, "w");
	fputs(text, f);
	fclose(f);
	users = users_load(path, note, &said);
	cr_assert_not_null(users);
	cr_expect_eq(users_count(users), 5000);
	users_unref(users);
	for (unsigned long nth = 1; hit; nth++) {
		mem_fault_set(nth, false);
		users = users_load(path, note, &said);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_expect_eq(users == NULL, hit, "allocation %lu", nth);
		users_unref(users);
	}
	free(text);

	f = fopen(path, "w");
	fputs("a:" SHA "\nb:x\n", f);
	fclose(f);
	memset(&said, 0, sizeof(said));
	cr_expect_null(users_load(path, note, &said));
	cr_expect_eq(said.lines[0], 2);

	said = (struct said){ 0 };
	failing_set("read", 1, EIO);
	cr_expect_null(users_load(path, note, &said));
	cr_expect_not_null(strstr(said.last, "Input/output error"), "%s", said.last);
	failing_set("fstat", 1, EIO);
	cr_expect_null(users_load(path, note, &said));
	f = fopen(path, "w");
	fputs("a:" SHA "\n", f);
	fclose(f);
	failing_set("read", 1, EINTR);
	users = users_load(path, note, &said);
	cr_expect(failing_hit() && users_count(users) == 1, "interrupted, and gone on with");
	failing_set(NULL, 0, 0);
	users_unref(users);

	cr_assert_eq(truncate(path, 64 * 1024 * 1024 + 1), 0);
	cr_expect_null(users_load(path, note, &said));
	cr_expect_eq(said.lines[said.count - 1], 0);
	unlink(path);
	rmdir(folder);
}

Test(users, name_fault)
{
	cr_expect_null(users_name_fault(slice_of("alice@example.org")));
	cr_expect_not_null(users_name_fault(slice_of("")));
	cr_expect_not_null(users_name_fault(slice_of("a:b")));
	cr_expect_not_null(users_name_fault(slice_of("a\nb")));
	cr_expect_not_null(users_name_fault(slice_of("#a")));
	cr_expect_not_null(users_name_fault((struct slice){ "a\0b", 3 }));
}
