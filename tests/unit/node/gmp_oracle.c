// SPDX-License-Identifier: Apache-2.0
#include "tests/oracle/oracle.h"

#include <criterion/criterion.h>

/* tests/oracle is the check; mcmesh-oracle runs it for longer and with other seeds. */
enum {
	EVENTS = 150000,
};

Test(gmp_oracle, igmp_agrees_with_the_rfc)
{
	struct oracle_run run = { .seed = 4, .events = EVENTS, .out = stderr };

	cr_assert_eq(oracle_run(&run), 0);
}

Test(gmp_oracle, mld_agrees_with_the_rfc)
{
	struct oracle_run run = { .seed = 6, .events = EVENTS, .v6 = true, .out = stderr };

	cr_assert_eq(oracle_run(&run), 0);
}
