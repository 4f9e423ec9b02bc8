"""How reports and topologies are shown: texts, tables, JSON and the HTML page."""
