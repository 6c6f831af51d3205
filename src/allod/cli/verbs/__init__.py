"""The verbs, a module each: `add_arguments`, and `run`, whose status is the command's. `policy` has two helpers here,
`policy_explain` and `policy_prove`."""
