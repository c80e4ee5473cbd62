# SPDX-License-Identifier: Apache-2.0
mcmesh_test(test_node_gmp
	SOURCES unit/node/gmp_harness.c unit/node/gmp_state.c unit/node/gmp_wire.c
		unit/node/gmp_querier.c unit/node/gmp_snoop.c unit/node/gmp_api.c
	LIBS mcmesh_gmp)
