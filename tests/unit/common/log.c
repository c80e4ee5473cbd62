/* SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUTPUT_MAX 65536
#define BURST	   20

/* What fn writes to stderr. */
static const char *capture(void (*fn)(void))
{
	static char output[OUTPUT_MAX];
	FILE *f = tmpfile();
	int saved = dup(STDERR_FILENO);
	size_t n;

	cr_assert_not_null(f);
	unsetenv("JOURNAL_STREAM");
	fflush(stderr);
	dup2(fileno(f), STDERR_FILENO);
	log_open("test", LOG_LEVEL_INFO);
	fn();
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(f);
	n = fread(output, 1, sizeof(output) - 1, f);
	output[n] = '\0';
	fclose(f);
	return output;
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static void say_levels(void)
{
	log_error("It broke. err=%d", 5);
	log_debug("unheard");
	log_info("name=%s", "a\nfake: error: b\x1b[2J");
}

Test(log, one_line_each_and_no_more_than_asked)
{
	cr_expect_str_eq(capture(say_levels), "test: error: It broke. err=5\n"
					      "test: info: name=a fake: error: b [2J\n");
}

static struct log_site site, other;

static void say_often(void)
{
	for (unsigned i = 0; i < BURST + 7; i++)
		log_line(&site, LOG_LEVEL_INFO, "often");
	log_line(&other, LOG_LEVEL_INFO, "elsewhere");
}

static void say_after_the_window(void)
{
	site.window_ms -= 10000;
	log_line(&site, LOG_LEVEL_INFO, "often");
	log_line(&site, LOG_LEVEL_INFO, "often");
}

Test(log, burst_of_a_site_is_limited_and_said)
{
	const char *text = capture(say_often);

	cr_expect_eq(count(text, "often"), BURST);
	cr_expect_eq(count(text, "elsewhere"), 1, "another site pays");
	cr_expect_str_eq(capture(say_after_the_window), "test: info: often suppressed=7\n"
							"test: info: often\n");
}

static void say_much(void)
{
	char text[5000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_info("%s", text);
}

Test(log, long_line_is_cut)
{
	const char *text = capture(say_much);

	cr_expect_lt(strlen(text), 1100);
	cr_expect_eq(text[strlen(text) - 1], '\n');
}
