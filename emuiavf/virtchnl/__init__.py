"""The PF's side of virtchnl for one VF: tables, control state and handlers, without any I/O."""
