# SPDX-License-Identifier: Apache-2.0
if(TARGET mcmesh_node_config)
	mcmesh_test(test_node_config SOURCES unit/node/config.c LIBS mcmesh_node_config)
endif()
