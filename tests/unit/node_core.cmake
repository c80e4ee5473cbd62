# SPDX-License-Identifier: Apache-2.0
foreach(part engine_clock fib mirror page rota sending settings uplink ways)
	mcmesh_test(test_node_${part} SOURCES unit/node/${part}.c LIBS mcmesh_node_core)
endforeach()
mcmesh_test(test_node_numbers SOURCES unit/node/numbers.c
	${CMAKE_SOURCE_DIR}/node/datapath/numbers.c LIBS mcmesh_common)
mcmesh_test(test_node_oversize SOURCES unit/node/oversize.c ${CMAKE_SOURCE_DIR}/node/oversize.c
	LIBS mcmesh_common)
