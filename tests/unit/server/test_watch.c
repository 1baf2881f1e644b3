/* Every way in which a file that is watched can change. */
#include "server/watch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char dir[32], file[64], other[64], link_path[64];

static void setup(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/adit-watch-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	(void)snprintf(file, sizeof(file), "%s/file", dir);
	(void)snprintf(other, sizeof(other), "%s/other", dir);
	(void)snprintf(link_path, sizeof(link_path), "%s/link", dir);
}

static void teardown(void)
{
	(void)unlink(file);
	(void)unlink(other);
	(void)unlink(link_path);
	cr_expect_eq(rmdir(dir), 0);
}

TestSuite(watch, .init = setup, .fini = teardown);

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	cr_assert_not_null(f);
	cr_assert_geq(fputs(text, f), 0);
	fclose(f);
}

/* A time of change that is not that of a moment ago, whatever the clock's grain. */
static void set_time(const char *path, long seconds)
{
	const struct timespec times[2] = { { seconds, 0 }, { seconds, 0 } };

	cr_assert_eq(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void expect_once(struct watch *w)
{
	cr_assert(watch_changed(w));
	cr_assert_not(watch_changed(w), "told once");
}

Test(watch, nothing_changed)
{
	struct watch w;

	put(file, "a");
	watch_init(&w, file);
	cr_assert_not(watch_changed(&w));
	cr_assert_not(watch_changed(&w));
}

Test(watch, nothing_to_watch)
{
	struct watch w;

	watch_init(&w, NULL);
	cr_assert_not(watch_changed(&w));
}

Test(watch, rewritten_with_another_size)
{
	struct watch w;

	put(file, "a");
	watch_init(&w, file);
	put(file, "ab");
	expect_once(&w);
}

Test(watch, rewritten_with_the_same_size)
{
	struct watch w;

	put(file, "a");
	set_time(file, 1000000);
	watch_init(&w, file);
	put(file, "b");
	expect_once(&w);
}

Test(watch, a_file_renamed_over_it_with_the_same_size_and_time)
{
	struct watch w;

	put(file, "a");
	put(other, "b");
	set_time(file, 1000000);
	set_time(other, 1000000);
	watch_init(&w, file);
	cr_assert_eq(rename(other, file), 0);
	expect_once(&w);
}

Test(watch, removed_and_made_again)
{
	struct watch w;

	put(file, "a");
	watch_init(&w, file);
	cr_assert_eq(unlink(file), 0);
	expect_once(&w);
	put(file, "a");
	expect_once(&w);
}

Test(watch, not_there_at_first)
{
	struct watch w;

	watch_init(&w, file);
	cr_assert_not(watch_changed(&w));
	put(file, "");
	expect_once(&w);
}

Test(watch, a_symbolic_link_turned_elsewhere)
{
	struct watch w;

	put(file, "a");
	put(other, "b");
	set_time(file, 1000000);
	set_time(other, 1000000);
	cr_assert_eq(symlink(file, link_path), 0);
	watch_init(&w, link_path);
	cr_assert_not(watch_changed(&w));
	cr_assert_eq(unlink(link_path), 0);
	cr_assert_eq(symlink(other, link_path), 0);
	expect_once(&w);
	cr_assert_eq(unlink(other), 0);
	expect_once(&w);
}

Test(watch, rights_that_changed)
{
	struct watch w;

	put(file, "a");
	cr_assert_eq(chmod(file, 0600), 0);
	watch_init(&w, file);
	w.seen.st_ctim.tv_sec -= 1; /* the clock's grain must not hide it */
	cr_assert_eq(chmod(file, 0640), 0);
	expect_once(&w);
}
