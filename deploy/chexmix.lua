-- Radiographs go to chexmix; a report that comes back does not.
function OnStoredInstance(instanceId, tags, metadata)
  if tags['Modality'] == 'CR' or tags['Modality'] == 'DX' then
    SendToModality(instanceId, 'chexmix')
  end
end
